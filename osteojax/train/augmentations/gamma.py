"""Gamma, as the detector's response was another."""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from osteojax.config import NotNegative
from osteojax.train.augmentations.registry import augmentation


@dataclasses.dataclass(frozen=True)
class Gamma:
    """Half-width of a uniform draw of the exponent's logarithm."""

    gamma: Annotated[float, NotNegative] = 0.0


@augmentation("gamma", settings=Gamma, kind="intensity", strongest={"gamma": 0.4})
def gamma(
    image: Float[Array, "height width channels"], key: Key[Array, ""], settings: Gamma
) -> Float[Array, "height width channels"]:
    """All values to the power of one exponent, between exp(-gamma) and exp(gamma)."""
    return image ** jnp.exp(settings.gamma * jax.random.uniform(key, minval=-1.0))
