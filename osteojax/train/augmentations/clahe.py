"""Local contrast, as the vendor's processing was another."""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from osteojax.config import Share
from osteojax.train.augmentations.registry import augmentation

_TILES, _BINS, _LIMIT = 8, 256, 0.01


@dataclasses.dataclass(frozen=True)
class Clahe:
    """Upper end of a uniform draw of how much of it is mixed in."""

    clahe: Annotated[float, Share] = 0.0


@augmentation("clahe", settings=Clahe, kind="intensity", strongest={"clahe": 1.0})
def clahe(
    image: Float[Array, "height width channels"], key: Key[Array, ""], settings: Clahe
) -> Float[Array, "height width channels"]:
    """The image mixed with its contrast-limited adaptive equalisation (`equalised`)."""
    amount = settings.clahe * jax.random.uniform(key)
    flat = jax.vmap(equalised, in_axes=-1, out_axes=-1)(image)
    return jnp.clip(image + amount * (flat - image), 0.0, 1.0)


def equalised(image: Float[Array, "height width"]) -> Float[Array, "height width"]:
    """Contrast-limited adaptive histogram equalisation (Zuiderveld 1994) of values in [0, 1].

    8 x 8 tiles, 256 bins, each bin of a tile at most a hundredth of its pixels; what is cut off goes to the others.
    Between the centres of tiles their curves are mixed bilinearly. scikit-image's `equalize_adapthist` of the same
    settings spreads whole pixels, has 252 bins, and stretches its result to the range.
    """
    height, width = image.shape
    tile = (-(-height // _TILES), -(-width // _TILES))
    margin = [(0, side * _TILES - length) for side, length in zip(tile, image.shape, strict=True)]
    level = jnp.round(jnp.pad(image, margin, mode="symmetric") * (_BINS - 1)).astype(jnp.int32)
    pixels = tile[0] * tile[1]
    tiles = level.reshape(_TILES, tile[0], _TILES, tile[1]).swapaxes(1, 2).reshape(_TILES**2, pixels)
    histogram = jax.vmap(lambda values: jnp.zeros(_BINS).at[values].add(1.0))(tiles)
    most = max(_LIMIT * pixels, 1.0)
    curve = (jnp.cumsum(_clipped(histogram, most), axis=-1) / pixels).reshape(_TILES, _TILES, _BINS)

    def neighbours(length: int, side: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        place = jnp.clip((jnp.arange(length) + 0.5) / side - 0.5, 0, _TILES - 1)
        lower = jnp.minimum(place.astype(jnp.int32), _TILES - 2)
        return lower, lower + 1, place - lower

    y0, y1, down = neighbours(height, tile[0])
    x0, x1, right = neighbours(width, tile[1])
    at = level[:height, :width]
    corner = lambda y, x: curve[y[:, None], x[None, :], at]  # noqa: E731
    above = corner(y0, x0) + right * (corner(y0, x1) - corner(y0, x0))
    below = corner(y1, x0) + right * (corner(y1, x1) - corner(y1, x0))
    return above + down[:, None] * (below - above)


def _clipped(histogram: jax.Array, most: float) -> jax.Array:
    """Each histogram (tiles, bins) filled up like a vessel: min(count + level, most), of the same sum."""
    total = histogram.sum(-1, keepdims=True)

    def halve(_: jax.typing.ArrayLike, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        level = (low + high) / 2
        short = jnp.minimum(histogram + level, most).sum(-1, keepdims=True) < total
        return jnp.where(short, level, low), jnp.where(short, high, level)

    low, _ = jax.lax.fori_loop(0, 20, halve, (jnp.zeros_like(total), jnp.full_like(total, most)))
    return jnp.minimum(histogram + low, most)
