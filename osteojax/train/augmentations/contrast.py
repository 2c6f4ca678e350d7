"""Contrast, as the beam was harder or softer."""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from osteojax.config import Share
from osteojax.train.augmentations.registry import augmentation


@dataclasses.dataclass(frozen=True)
class Contrast:
    """Half-width of a uniform draw, a fraction."""

    contrast: Annotated[float, Share] = 0.0


@augmentation("contrast", settings=Contrast, kind="intensity", strongest={"contrast": 0.4})
def contrast(
    image: Float[Array, "height width channels"], key: Key[Array, ""], settings: Contrast
) -> Float[Array, "height width channels"]:
    """All distances to the mean of the image times one factor, clipped to [0, 1]."""
    mean = image.mean()
    factor = 1 + settings.contrast * jax.random.uniform(key, minval=-1.0)
    return jnp.clip(mean + factor * (image - mean), 0.0, 1.0)
