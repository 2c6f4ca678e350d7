"""Random erasing, as something lay on the image."""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from osteojax.config import Share
from osteojax.train.augmentations.registry import augmentation


@dataclasses.dataclass(frozen=True)
class Erase:
    """The probability."""

    erase: Annotated[float, Share] = 0.0


@augmentation("erase", settings=Erase, kind="occlusion", strongest={"erase": 0.5})
def erase(
    image: Float[Array, "height width channels"], key: Key[Array, ""], settings: Erase
) -> Float[Array, "height width channels"]:
    """A rectangle of 2 to 20 % of the image, of an aspect between 0.3 and 1 / 0.3, full of uniform noise.

    Zhong et al. 2020, algorithm 1, whose rectangles are of up to 40 %; one that would not fit is cut off at the edge
    instead of drawn again.
    """
    on, area, aspect, place, noise = jax.random.split(key, 5)
    height, width, _ = image.shape
    share = jax.random.uniform(area, minval=0.02, maxval=0.2)
    ratio = jnp.exp(jax.random.uniform(aspect, minval=jnp.log(0.3), maxval=-jnp.log(0.3)))
    half = jnp.sqrt(share * jnp.array([ratio, 1 / ratio])) / 2
    centre = half + jax.random.uniform(place, (2,)) * jnp.maximum(1 - 2 * half, 0)
    y, x = (jnp.arange(height) + 0.5) / height, (jnp.arange(width) + 0.5) / width
    inside = (jnp.abs(y - centre[0]) < half[0])[:, None] & (jnp.abs(x - centre[1]) < half[1])
    erased = jnp.where(inside[..., None], jax.random.uniform(noise, image.shape), image)
    return jnp.where(jax.random.uniform(on) < settings.erase, erased, image)
