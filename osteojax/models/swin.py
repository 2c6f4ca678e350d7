"""Swin-T (Liu et al. 2021, arXiv:2103.14030), in the layouts of torchvision and timm."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from osteojax.models.backbone import Backbone, PoolHead, Stage
from osteojax.models.convnext import PatchStem
from osteojax.models.layers.convolution import Input, LayerOptions, Linear
from osteojax.models.layers.padding import pad
from osteojax.models.layers.transformer import Attention, Mlp, layer_norm
from osteojax.models.published import BLOCK, Layout, torchvision
from osteojax.models.registry import architecture
from osteojax.models.vit import FinalNorm

_EPS = 1e-5
_WINDOW = 7
_SHUT = -100.0
"""Added to the score of a pair that must not meet, as in the publishers' code."""


def _relative_places() -> np.ndarray:
    """(49, 49) place in the table of biases of each pair of a window's pixels, by how far they lie apart."""
    rows, columns = (axis.ravel() for axis in np.mgrid[:_WINDOW, :_WINDOW])
    down = rows[:, None] - rows + _WINDOW - 1
    right = columns[:, None] - columns + _WINDOW - 1
    return down * (2 * _WINDOW - 1) + right


def _regions(side: int, shift: int) -> np.ndarray:
    """(side,) which parts of an axis lie together after a roll by `shift`: 0, or 1 and 2 in the last window."""
    regions = np.zeros(side, np.int32)
    if shift:
        regions[-_WINDOW:-shift], regions[-shift:] = 1, 2
    return regions


def _shut(shape: tuple[int, int], shifts: tuple[int, int]) -> np.ndarray:
    """(windows, 1, 49, 49) float32: 0, but `_SHUT` for pixels that a roll brought together from opposite edges."""
    rows, columns = (_regions(side, shift) for side, shift in zip(shape, shifts, strict=True))
    region = _windows(3 * rows[None, :, None, None] + columns[None, None, :, None])[0]
    return np.where(region == region.swapaxes(1, 2), 0, _SHUT).astype(np.float32)[:, None]


def _windows(x: Any) -> Any:
    """(B, H, W, C) -> (B, windows, 49, C), of NumPy's or JAX's array."""
    batch, height, width, features = x.shape
    x = x.reshape(batch, height // _WINDOW, _WINDOW, width // _WINDOW, _WINDOW, features)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, _WINDOW**2, features)


class WindowAttention(nnx.Module):
    """Self-attention within 7x7 windows, with a learned bias for each distance (section 3.2, equation 4)."""

    def __init__(self, features: int, heads: int, *, options: LayerOptions, rngs: nnx.Rngs) -> None:
        self.within = Attention(features, heads, options=options, rngs=rngs)
        shape = ((2 * _WINDOW - 1) ** 2, heads)
        self.distances = nnx.Param(0.02 * jax.random.normal(rngs.params(), shape, jnp.float32))

    def __call__(self, x: jax.Array, shift: int) -> jax.Array:
        """(B, H, W, C) -> the same shape; windows lie `shift` pixels lower and to the right where several fit.

        Zeros complete the last windows and take part, as in the publishers' code.
        """
        batch, height, width, features = x.shape
        x = pad(x, ((0, -height % _WINDOW), (0, -width % _WINDOW)))
        _, rows, columns, _ = x.shape
        shifts = (shift if rows > _WINDOW else 0, shift if columns > _WINDOW else 0)
        bias = self.distances[...][_relative_places()].transpose(2, 0, 1)
        if any(shifts):
            x = jnp.roll(x, (-shifts[0], -shifts[1]), (1, 2))
            bias = bias + _shut((rows, columns), shifts)
        y = self.within(_windows(x), bias)
        y = y.reshape(batch, rows // _WINDOW, columns // _WINDOW, _WINDOW, _WINDOW, features)
        y = y.transpose(0, 1, 3, 2, 4, 5).reshape(x.shape)
        if any(shifts):
            y = jnp.roll(y, shifts, (1, 2))
        return y[:, :height, :width]


class SwinBlock(nnx.Module):
    """Attention within windows and MLP, each behind a layer norm and beside a shortcut (figure 3b)."""

    def __init__(
        self, features: int, heads: int, shift: int, *, options: LayerOptions, rngs: nnx.Rngs
    ) -> None:
        self.norm1 = layer_norm(features, _EPS, options=options, rngs=rngs)
        self.attn = WindowAttention(features, heads, options=options, rngs=rngs)
        self.norm2 = layer_norm(features, _EPS, options=options, rngs=rngs)
        self.mlp = Mlp(features, 4 * features, options=options, rngs=rngs)
        self.shift = shift
        self.drop: nnx.Dropout | None = None

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """(B, H, W, C) -> the same shape."""
        y = self.attn(self.norm1(x), self.shift)
        x = x + (y if self.drop is None else self.drop(y))
        y = self.mlp(self.norm2(x))
        return x + (y if self.drop is None else self.drop(y))


class PatchMerging(nnx.Module):
    """Each 2x2 pixels' channels side by side, layer norm, a dense layer to half of them (section 3.1)."""

    def __init__(self, features: int, *, options: LayerOptions, rngs: nnx.Rngs) -> None:
        self.norm = layer_norm(4 * features, _EPS, options=options, rngs=rngs)
        self.reduction = Linear(4 * features, 2 * features, bias=False, dtype=options.dtype, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """(B, H, W, C) -> (B, ceil(H / 2), ceil(W / 2), 2 C); zeros complete an odd last row or column."""
        x = pad(x, ((0, x.shape[1] % 2), (0, x.shape[2] % 2)))
        quarters = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(jnp.concatenate(quarters, axis=-1)))


def swin(
    arch: str,
    classes: int,
    *,
    depths: tuple[int, int, int, int],
    features: int,
    image: Input,
    options: LayerOptions,
    rngs: nnx.Rngs,
) -> Backbone:
    """A Swin transformer of `features` channels in its first stage, 32 to a head; every second block is shifted.

    The norm behind the last block belongs to `stage4`.
    """
    stem = PatchStem(features, eps=_EPS, image=image, options=options, rngs=rngs)
    stages = []
    for index, depth in enumerate(depths):
        transition = PatchMerging(features, options=options, rngs=rngs) if index else None
        features = 2 * features if index else features
        shifts = [_WINDOW // 2 * (position % 2) for position in range(depth)]
        blocks = [SwinBlock(features, features // 32, shift, options=options, rngs=rngs) for shift in shifts]
        last = index == len(depths) - 1
        final = FinalNorm(features, eps=_EPS, options=options, rngs=rngs) if last else None
        stages.append(Stage(blocks, transition=transition, final=final))
    return Backbone(arch, stem, stages, PoolHead(features, classes, rngs=rngs))


_INNER = {
    "attn/within/qkv": "attn.qkv",
    "attn/within/proj": "attn.proj",
    "mlp/fc1": "mlp.0",
    "mlp/fc2": "mlp.3",
    "norm1": "norm1",
    "norm2": "norm2",
}


def _block(match: re.Match[str]) -> str:
    """torchvision's list has a stem, and then stages and what leads to the next in turn."""
    return f"features.{2 * int(match[1]) - 1}.{match[2]}"


TORCHVISION = Layout(
    "torchvision",
    (
        (r"stem/conv", "features.0.0"),
        (r"stem/norm", "features.0.2"),
        (
            r"stage(\d)/transition/(norm|reduction)",
            lambda m: f"features.{2 * int(m[1]) - 2}.{m[2]}",
        ),
        (BLOCK + f"({'|'.join(_INNER)})", lambda m: f"{_block(m)}.{_INNER[m[3]]}"),
        (r"stage4/final/norm", "norm"),
        (r"head/fc", "head"),
    ),
    tensors=((BLOCK + "attn/distances", lambda m: f"{_block(m)}.attn.relative_position_bias_table"),),
    # The index repeats what `_relative_places` computes.
    ignored=r".*\.relative_position_index",
)


def _timm_block(match: re.Match[str]) -> str:
    """timm counts stages from 0, and has what leads to a stage within it."""
    return f"layers.{int(match[1]) - 1}.blocks.{match[2]}"


TIMM = Layout(
    "timm",
    (
        (r"stem/conv", "patch_embed.proj"),
        (r"stem/norm", "patch_embed.norm"),
        (
            r"stage(\d)/transition/(norm|reduction)",
            lambda m: f"layers.{int(m[1]) - 1}.downsample.{m[2]}",
        ),
        (
            BLOCK + f"({'|'.join(_INNER)})",
            lambda m: f"{_timm_block(m)}.{m[3].replace('within/', '').replace('/', '.')}",
        ),
        (r"stage4/final/norm", "norm"),
        (r"head/fc", "head.fc"),
    ),
    tensors=((BLOCK + "attn/distances", lambda m: f"{_timm_block(m)}.attn.relative_position_bias_table"),),
    # Both repeat what `_relative_places` and `_shut` compute; earlier releases of timm saved them.
    ignored=r".*\.(relative_position_index|attn_mask)",
)

architecture("swin_t", weights=torchvision("swin_t-704ceda3.pth"), top1=81.474, layouts=(TORCHVISION, TIMM))(
    functools.partial(swin, depths=(2, 2, 6, 2), features=96)
)
