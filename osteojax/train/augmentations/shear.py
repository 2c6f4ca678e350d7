"""Shear, as the beam was oblique."""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from osteojax.config import Bound
from osteojax.train.augmentations.registry import augmentation
from osteojax.train.warp import linear


@dataclasses.dataclass(frozen=True)
class Shear:
    """Half-width of a uniform draw, degrees."""

    shear: Annotated[float, Bound(low=0, high=60)] = 0.0


@augmentation("shear", settings=Shear, kind="warp", strongest={"shear": 10.0})
def shear(
    points: Float[Array, "2 height width"], key: Key[Array, ""], settings: Shear
) -> Float[Array, "2 height width"]:
    """Rows shifted in proportion to their height: x from x + tan(angle) y."""
    slope = jnp.tan(jnp.deg2rad(settings.shear) * jax.random.uniform(key, minval=-1.0))
    return linear(points, jnp.array([[1.0, 0.0], [slope, 1.0]]))
