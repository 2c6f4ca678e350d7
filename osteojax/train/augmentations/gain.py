"""Gain, as the exposure was another."""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from osteojax.config import Share
from osteojax.train.augmentations.registry import augmentation


@dataclasses.dataclass(frozen=True)
class Gain:
    """Half-width of a uniform draw, a fraction."""

    gain: Annotated[float, Share] = 0.0


@augmentation("gain", settings=Gain, kind="intensity", draws=(3,), strongest={"gain": 0.3})
def gain(
    image: Float[Array, "height width channels"], key: Key[Array, ""], settings: Gain
) -> Float[Array, "height width channels"]:
    """All values times one factor, clipped to [0, 1]."""
    return jnp.clip(image * (1 + settings.gain * jax.random.uniform(key, minval=-1.0)), 0.0, 1.0)
