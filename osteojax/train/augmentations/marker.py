"""A side marker of lead, as the radiographer put one."""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from osteojax.config import Share
from osteojax.train.augmentations.registry import augmentation

_LETTERS = (
    ((1, 0, 0, 0, 0), (1, 0, 0, 0, 0), (1, 0, 0, 0, 0), (1, 0, 0, 0, 0), (1, 1, 1, 1, 0)),
    ((1, 1, 1, 0, 0), (1, 0, 0, 1, 0), (1, 1, 1, 0, 0), (1, 0, 1, 0, 0), (1, 0, 0, 1, 0)),
)


@dataclasses.dataclass(frozen=True)
class Marker:
    """The probability."""

    marker: Annotated[float, Share] = 0.0


@augmentation("marker", settings=Marker, kind="occlusion", strongest={"marker": 0.5})
def marker(
    image: Float[Array, "height width channels"], key: Key[Array, ""], settings: Marker
) -> Float[Array, "height width channels"]:
    """A white L or R, a tenth of the side high, along an edge: a network that reads markers meets wrong ones."""
    on, letter, edge, place = jax.random.split(key, 4)
    height, width, _ = image.shape
    glyph = jnp.asarray(_LETTERS)[jax.random.bernoulli(letter).astype(jnp.int32)]
    size = max(round(0.1 * min(height, width)), 1)
    along, within = jax.random.uniform(place), jnp.array([0.02, 0.88])[jax.random.randint(edge, (), 0, 2)]
    upright = jax.random.bernoulli(jax.random.fold_in(edge, 1))
    free = jnp.array([height - size, width - size])
    where = jnp.where(upright, jnp.array([within, along]), jnp.array([along, within]))
    corner = jnp.minimum((where * jnp.array([height, width])).astype(jnp.int32), free)
    y, x = jnp.arange(height) - corner[0], jnp.arange(width) - corner[1]
    inside = ((y >= 0) & (y < size))[:, None] & ((x >= 0) & (x < size))
    row, column = jnp.clip(y * 5 // size, 0, 4), jnp.clip(x * 5 // size, 0, 4)
    ink = inside & (glyph[row[:, None], column] > 0)
    marked = jnp.where(ink[..., None], 1.0, image)
    return jnp.where(jax.random.uniform(on) < settings.marker, marked, image)
