"""Rotation and shift, as the patient was positioned otherwise."""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from osteojax.config import Bound, Share
from osteojax.train.augmentations.registry import augmentation
from osteojax.train.warp import linear


@dataclasses.dataclass(frozen=True)
class Rigid:
    """Half-widths of uniform draws: degrees, and fractions of the sides."""

    rotate: Annotated[float, Bound(low=0, high=180)] = 0.0
    shift: Annotated[float, Share] = 0.0


@augmentation("rigid", settings=Rigid, kind="warp", draws=(1, 2), strongest={"rotate": 30.0, "shift": 0.1})
def rigid(
    points: Float[Array, "2 height width"],
    rotate_key: Key[Array, ""],
    shift_key: Key[Array, ""],
    settings: Rigid,
) -> Float[Array, "2 height width"]:
    """Rotated about the centre and shifted."""
    angle = jnp.deg2rad(settings.rotate) * jax.random.uniform(rotate_key, minval=-1.0)
    offset = settings.shift * jax.random.uniform(shift_key, (2,), minval=-1.0)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    rotated = linear(points, jnp.array([[cos, -sin], [sin, cos]]))
    return rotated + (offset * jnp.array(points.shape[1:]))[:, None, None]
