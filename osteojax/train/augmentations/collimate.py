"""Collimation, as the field was narrowed."""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from osteojax.config import Bound
from osteojax.train.augmentations.registry import augmentation


@dataclasses.dataclass(frozen=True)
class Collimate:
    """Upper end of uniform draws, one for each edge, of the share of the side that is not exposed."""

    collimate: Annotated[float, Bound(low=0, high=0.4)] = 0.0


@augmentation("collimate", settings=Collimate, kind="occlusion", strongest={"collimate": 0.15})
def collimate(
    image: Float[Array, "height width channels"], key: Key[Array, ""], settings: Collimate
) -> Float[Array, "height width channels"]:
    """Black beyond four straight edges: a network that reads the shape of the field loses it."""
    top, bottom, left, right = settings.collimate * jax.random.uniform(key, (4,))
    height, width, _ = image.shape
    y, x = (jnp.arange(height) + 0.5) / height, (jnp.arange(width) + 0.5) / width
    rows, columns = (y >= top) & (y <= 1 - bottom), (x >= left) & (x <= 1 - right)
    return jnp.where((rows[:, None] & columns)[..., None], image, 0.0)
