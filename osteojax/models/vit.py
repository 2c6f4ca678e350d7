"""ViT-S/16 (Dosovitskiy et al. 2021, arXiv:2010.11929; Steiner et al. 2022, arXiv:2106.10270).

In the layouts of timm and of Google's own .npz.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from osteojax.models.backbone import Backbone, Head, Stage
from osteojax.models.layers.convolution import Input, InputConv, LayerOptions, Linear, Padding
from osteojax.models.layers.transformer import EncoderBlock, layer_norm
from osteojax.models.published import BLOCK, Joined, Layout, Preprocessing
from osteojax.models.registry import architecture

_EPS = 1e-6
_PATCH, _GRID = 16, 14
"""Pixels a side of a patch, and patches a side of the 224 pixels that the positions were learned at."""


class PatchConv(InputConv):
    """Patches as a convolution; zeros complete the last ones behind the normalisation (timm's dynamic padding)."""

    def padding(self, height: int, width: int) -> Padding:
        """The padding below and to the right."""
        return (0, -height % self.stride), (0, -width % self.stride)


class Tokens(nnx.Module):
    """Patches as tokens, a class token before them, positions added.

    Positions are learned for 14x14 patches. For another grid they are interpolated, bicubic with a widened kernel where
    it is coarser, as timm does at any size: the parameters stay those of 224 pixels, and learn through it.
    """

    def __init__(self, features: int, *, image: Input, options: LayerOptions, rngs: nnx.Rngs) -> None:
        self.conv = PatchConv(features, _PATCH, image=image, stride=_PATCH, options=options, rngs=rngs)
        self.class_token = nnx.Param(jnp.zeros((1, 1, features), jnp.float32))
        shape = (1, 1 + _GRID**2, features)
        self.positions = nnx.Param(0.02 * jax.random.normal(rngs.params(), shape, jnp.float32))

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Images (B, H, W, in_channels) -> (B, 1 + ceil(H / 16) ceil(W / 16), features)."""
        patches = self.conv(x)
        batch, rows, columns, features = patches.shape
        tokens = patches.reshape(batch, rows * columns, features) + self._grid(rows, columns).astype(
            patches.dtype
        )
        first = (self.class_token[...] + self.positions[:, :1]).astype(patches.dtype)
        return jnp.concatenate([jnp.broadcast_to(first, (batch, 1, features)), tokens], axis=1)

    def _grid(self, rows: int, columns: int) -> jax.Array:
        grid = self.positions[:, 1:]
        features = grid.shape[-1]
        if (rows, columns) != (_GRID, _GRID):
            square = grid.reshape(1, _GRID, _GRID, features)
            grid = jax.image.resize(square, (1, rows, columns, features), "cubic", antialias=True)
        return grid.reshape(1, rows * columns, features)


class FinalNorm(nnx.Module):
    """Layer norm behind the last block."""

    def __init__(self, features: int, *, eps: float, options: LayerOptions, rngs: nnx.Rngs) -> None:
        self.norm = layer_norm(features, eps, options=options, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """(..., C) -> (..., C)."""
        return self.norm(x)


class TokenHead(Head):
    """The class token and one linear layer, nothing else."""

    def __init__(self, in_features: int, num_classes: int, *, rngs: nnx.Rngs) -> None:
        self.fc = Linear(in_features, num_classes, rngs=rngs)

    def pool(self, h: jax.Array) -> jax.Array:
        """(B, N, C) -> (B, C) float32, of the class token."""
        return h[:, 0].astype(jnp.float32)


def vit(
    arch: str,
    classes: int,
    *,
    features: int,
    heads: int,
    depths: tuple[int, int, int, int],
    image: Input,
    options: LayerOptions,
    rngs: nnx.Rngs,
) -> Backbone:
    """A vision transformer whose stages are `depths` blocks; the norm behind the last belongs to `stage4`."""
    stem = Tokens(features, image=image, options=options, rngs=rngs)
    stages = []
    for index, depth in enumerate(depths):
        blocks = [EncoderBlock(features, heads, eps=_EPS, options=options, rngs=rngs) for _ in range(depth)]
        last = index == len(depths) - 1
        final = FinalNorm(features, eps=_EPS, options=options, rngs=rngs) if last else None
        stages.append(Stage(blocks, final=final))
    return Backbone(arch, stem, stages, TokenHead(features, classes, rngs=rngs), patch=_PATCH)


_DEPTHS = (3, 3, 3, 3)

TIMM = Layout(
    "timm",
    (
        (r"stem/conv", "patch_embed.proj"),
        (
            BLOCK + r"(norm1|norm2|attn/qkv|attn/proj|mlp/fc1|mlp/fc2)",
            lambda m: f"blocks.{sum(_DEPTHS[: int(m[1]) - 1]) + int(m[2])}.{m[3].replace('/', '.')}",
        ),
        (r"stage4/final/norm", "norm"),
        (r"head/fc", "head"),
    ),
    tensors=((r"stem/class_token", "cls_token"), (r"stem/positions", "pos_embed")),
)


_FEATURES, _HEADS = 384, 6


def _google_block(match: re.Match[str]) -> str:
    return f"Transformer/encoderblock_{sum(_DEPTHS[: int(match[1]) - 1]) + int(match[2])}"


_GOOGLE_INNER = {
    "norm1": "LayerNorm_0",
    "norm2": "LayerNorm_2",
    "attn/proj": "MultiHeadDotProductAttention_1/out",
    "mlp/fc1": "MlpBlock_3/Dense_0",
    "mlp/fc2": "MlpBlock_3/Dense_1",
}


def _side_by_side(*parts: np.ndarray) -> np.ndarray:
    """Queries, keys and values (..., heads, width) each -> (..., 3 heads width)."""
    return np.concatenate([part.reshape(*part.shape[:-2], -1) for part in parts], axis=-1)


def _google_attention(stage: int, block: int) -> dict[str, Joined]:
    """Where Google's files hold queries, keys and values one by one, all by head."""
    ours = f"stage{stage + 1}/blocks/{block}/attn"
    theirs = f"Transformer/encoderblock_{sum(_DEPTHS[:stage]) + block}/MultiHeadDotProductAttention_1"
    by_head = (_HEADS, _FEATURES // _HEADS)

    def three(leaf: str) -> tuple[str, ...]:
        return tuple(f"{theirs}/{part}/{leaf}" for part in ("query", "key", "value"))

    return {
        f"{ours}/qkv/kernel": Joined(three("kernel"), ((_FEATURES, *by_head),) * 3, _side_by_side),
        f"{ours}/qkv/bias": Joined(three("bias"), (by_head,) * 3, _side_by_side),
        f"{ours}/proj/kernel": Joined(
            (f"{theirs}/out/kernel",), ((*by_head, _FEATURES),), lambda k: k.reshape(-1, _FEATURES)
        ),
    }


# github.com/google-research/vision_transformer, and the "augreg" files of Steiner et al. 2022.
GOOGLE = Layout(
    "google",
    (
        (r"stem/conv", "embedding"),
        (BLOCK + f"({'|'.join(_GOOGLE_INNER)})", lambda m: f"{_google_block(m)}/{_GOOGLE_INNER[m[3]]}"),
        (r"stage4/final/norm", "Transformer/encoder_norm"),
        (r"head/fc", "head"),
    ),
    flax=True,
    tensors=(
        (r"stem/class_token", "cls"),
        (r"stem/positions", "Transformer/posembed_input/pos_embedding"),
    ),
    joined={
        path: made
        for stage, depth in enumerate(_DEPTHS)
        for block in range(depth)
        for path, made in _google_attention(stage, block).items()
    },
)

architecture(
    "vit_small_patch16",
    preprocessing=Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    layouts=(TIMM, GOOGLE),
)(functools.partial(vit, features=_FEATURES, heads=_HEADS, depths=_DEPTHS))
