"""Brightness, as the display was set otherwise."""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from osteojax.config import Share
from osteojax.train.augmentations.registry import augmentation


@dataclasses.dataclass(frozen=True)
class Brightness:
    """Half-width of a uniform draw, of the range."""

    brightness: Annotated[float, Share] = 0.0


@augmentation("brightness", settings=Brightness, kind="intensity", strongest={"brightness": 0.2})
def brightness(
    image: Float[Array, "height width channels"], key: Key[Array, ""], settings: Brightness
) -> Float[Array, "height width channels"]:
    """One number added to all values, clipped to [0, 1]."""
    return jnp.clip(image + settings.brightness * jax.random.uniform(key, minval=-1.0), 0.0, 1.0)
