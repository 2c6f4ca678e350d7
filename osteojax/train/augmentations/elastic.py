"""Elastic deformation, as soft tissue lay otherwise."""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from osteojax.config import Bound
from osteojax.train.augmentations.registry import augmentation

_NODES = 5


@dataclasses.dataclass(frozen=True)
class Elastic:
    """Standard deviation of the displacement of the nodes, a fraction of the sides."""

    elastic: Annotated[float, Bound(low=0, high=0.05)] = 0.0


@augmentation("elastic", settings=Elastic, kind="warp", strongest={"elastic": 0.01})
def elastic(
    points: Float[Array, "2 height width"], key: Key[Array, ""], settings: Elastic
) -> Float[Array, "2 height width"]:
    """Moved by a smooth field, normal draws on 5 x 5 nodes and cubic between them (Ronneberger et al. 2015).

    Above about 0.02 the field begins to fold, where neighbours of a pixel change places.
    """
    sides = points.shape[1:]
    nodes = settings.elastic * jax.random.normal(key, (2, _NODES, _NODES))
    field = jax.image.resize(nodes, (2, *sides), "cubic")
    return points + field * jnp.array(sides)[:, None, None]
