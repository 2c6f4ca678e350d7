"""Mixup and CutMix: rows of a batch mixed in pairs, on the device, as a pure function of (seed, step, row)."""

import dataclasses
import zlib
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from osteojax.config import NotNegative

_STREAM = zlib.crc32(b"mix")


@dataclasses.dataclass(frozen=True)
class MixSection:
    """`mix.*`: alpha of the Beta(alpha, alpha) of the shares; 0 is off. With both, each row draws which."""

    mixup: Annotated[float, NotNegative] = 0.0
    cutmix: Annotated[float, NotNegative] = 0.0

    @property
    def is_on(self) -> bool:
        """Whether anything is mixed."""
        return self.mixup > 0 or self.cutmix > 0


def mix(
    key: Key[Array, ""],
    image: Float[Array, "batch height width channels"],
    mask: Float[Array, " batch"],
    section: MixSection,
) -> tuple[Float[Array, "batch height width channels"], Int[Array, " batch"], Float[Array, " batch"]]:
    """Each row mixed with another, a permutation of the batch; padding (mask 0) is mixed with nothing.

    Mixup (Zhang et al. 2018): share x + (1 - share) x'. CutMix (Yun et al. 2019, section 3.1): a rectangle of x' in x,
    of 1 - share of the area before it is cut off at the edge; the share is then that of the pixels. One share a row,
    where the papers' programs draw one for the batch. Over several devices the partners' images are sent.

    Returns:
        The images; the partner of each row; the share of the row's own image and label.
    """
    rows = jnp.arange(len(mask))
    # By row: the number of padding rows must not matter.
    keys = jax.vmap(lambda row: jax.random.fold_in(jax.random.fold_in(key, _STREAM), row))(rows)
    draws = jax.vmap(lambda k: jax.random.split(k, 4))(keys)
    real = mask > 0
    order = jnp.argsort(jnp.where(real, jax.vmap(jax.random.uniform)(draws[:, 0]), 2.0))
    count = real.sum()
    behind = order[jnp.where(rows < count, (rows + 1) % jnp.maximum(count, 1), rows)]
    partner = jnp.zeros_like(order).at[order].set(behind)
    cuts = jnp.full(len(mask), section.cutmix > 0)
    if section.mixup > 0 and section.cutmix > 0:
        cuts = jax.vmap(jax.random.bernoulli)(draws[:, 1])
    alpha = jnp.where(cuts, section.cutmix, section.mixup)
    share = jax.vmap(lambda k, a: jax.random.beta(k, a, a))(draws[:, 2], alpha)
    inside = jax.vmap(lambda k, s: _rectangle(k, 1 - s, *image.shape[1:3]))(draws[:, 3], share)
    share = jnp.where(cuts, 1 - inside.mean((1, 2)), share)
    share = jnp.where(partner == rows, 1.0, share)
    own = jnp.where(cuts[:, None, None], ~inside, share[:, None, None])[..., None]
    other = image[partner]
    return (
        jnp.where((partner == rows)[:, None, None, None], image, own * image + (1 - own) * other),
        partner,
        share,
    )


def _rectangle(key: Key[Array, ""], area: Float[Array, ""], height: int, width: int) -> jax.Array:
    """(H, W) bool: a rectangle of the image's aspect and that share of its area about a random pixel."""
    centre = jax.random.uniform(key, (2,))
    half = jnp.sqrt(area) / 2
    y, x = (jnp.arange(height) + 0.5) / height, (jnp.arange(width) + 0.5) / width
    return (jnp.abs(y - centre[0]) < half)[:, None] & (jnp.abs(x - centre[1]) < half)
