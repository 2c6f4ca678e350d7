"""Scale, as the distance to the detector was another."""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from osteojax.config import NotNegative
from osteojax.train.augmentations.registry import augmentation


@dataclasses.dataclass(frozen=True)
class Scale:
    """Half-width of a uniform draw of the logarithm of the size, as the factor that it is at most away from 1."""

    scale: Annotated[float, NotNegative] = 0.0


@augmentation("scale", settings=Scale, kind="warp", strongest={"scale": 0.2})
def scale(
    points: Float[Array, "2 height width"], key: Key[Array, ""], settings: Scale
) -> Float[Array, "2 height width"]:
    """Larger or smaller about the centre, by a factor between 1 / (1 + scale) and 1 + scale."""
    logarithm = jnp.log1p(settings.scale) * jax.random.uniform(key, minval=-1.0)
    return points * jnp.exp(-logarithm)
