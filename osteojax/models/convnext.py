"""ConvNeXt-T (Liu et al. 2022, arXiv:2201.03545), in the layouts of torchvision and timm."""

import functools
import re

import jax
import numpy as np
from flax import nnx
from jax import numpy as jnp

from osteojax.models.backbone import Backbone, Head, Stage
from osteojax.models.layers.convolution import Conv, Input, InputConv, LayerOptions, Linear
from osteojax.models.layers.transformer import Mlp, layer_norm
from osteojax.models.published import BLOCK, Layout, torchvision
from osteojax.models.registry import architecture

_EPS = 1e-6
_LAYER_SCALE = 1e-6
"""What a residual branch is weighted by at the start (section 2.6, after Touvron et al. 2021)."""
_DEPTHS, _WIDTHS = (3, 3, 9, 3), (96, 192, 384, 768)


class PatchStem(nnx.Module):
    """4x4 convolution at stride 4 and layer norm."""

    def __init__(
        self, features: int, *, eps: float, image: Input, options: LayerOptions, rngs: nnx.Rngs
    ) -> None:
        self.conv = InputConv(features, 4, image=image, stride=4, options=options, rngs=rngs)
        self.norm = layer_norm(features, eps, options=options, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Images (B, H, W, in_channels) -> (B, H / 4, W / 4, features); incomplete patches are dropped."""
        return self.norm(self.conv(x))


class Downsample(nnx.Module):
    """Layer norm and 2x2 convolution at stride 2: what leads from one stage to the next."""

    def __init__(self, in_features: int, out_features: int, *, options: LayerOptions, rngs: nnx.Rngs) -> None:
        self.norm = layer_norm(in_features, _EPS, options=options, rngs=rngs)
        self.conv = Conv(in_features, out_features, 2, stride=2, bias=True, options=options, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """(B, H, W, in) -> (B, H / 2, W / 2, out); an odd last row or column is dropped."""
        return self.conv(self.norm(x))


class ConvNeXtBlock(nnx.Module):
    """7x7 depthwise convolution, layer norm, MLP; weighted by channel and beside a shortcut (figure 4)."""

    def __init__(self, features: int, *, options: LayerOptions, rngs: nnx.Rngs) -> None:
        self.depthwise = Conv(
            features, features, 7, feature_groups=features, bias=True, options=options, rngs=rngs
        )
        self.norm = layer_norm(features, _EPS, options=options, rngs=rngs)
        self.mlp = Mlp(features, 4 * features, options=options, rngs=rngs)
        self.layer_scale = nnx.Param(jnp.full(features, _LAYER_SCALE, jnp.float32))
        self.drop: nnx.Dropout | None = None

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """(B, H, W, C) -> the same shape."""
        y = self.mlp(self.norm(self.depthwise(x)))
        y = y * self.layer_scale[...].astype(y.dtype)
        return x + (y if self.drop is None else self.drop(y))


class NormHead(Head):
    """Global average pooling, layer norm, one linear layer, all in float32."""

    def __init__(self, in_features: int, num_classes: int, *, rngs: nnx.Rngs) -> None:
        self.norm = layer_norm(in_features, _EPS, options=LayerOptions(), rngs=rngs)
        self.fc = Linear(in_features, num_classes, rngs=rngs)

    def pre_logits(self, h: jax.Array) -> jax.Array:
        """(B, H, W, C), or (B, C) of `pool`, -> (B, C) float32."""
        return self.norm(super().pre_logits(h))


def convnext(
    arch: str,
    classes: int,
    *,
    depths: tuple[int, int, int, int],
    widths: tuple[int, int, int, int],
    image: Input,
    options: LayerOptions,
    rngs: nnx.Rngs,
) -> Backbone:
    """A ConvNeXt with `depths` blocks of `widths` channels in its stages."""
    stem = PatchStem(widths[0], eps=_EPS, image=image, options=options, rngs=rngs)
    stages, inputs = [], widths[0]
    for depth, width in zip(depths, widths, strict=True):
        transition = None if width == inputs else Downsample(inputs, width, options=options, rngs=rngs)
        blocks = [ConvNeXtBlock(width, options=options, rngs=rngs) for _ in range(depth)]
        stages.append(Stage(blocks, transition=transition))
        inputs = width
    return Backbone(arch, stem, stages, NormHead(inputs, classes, rngs=rngs))


def _block(match: re.Match[str]) -> str:
    """torchvision's list has a stem, and then stages and what leads to the next in turn."""
    return f"features.{2 * int(match[1]) - 1}.{match[2]}"


TORCHVISION = Layout(
    "torchvision",
    (
        (r"stem/conv", "features.0.0"),
        (r"stem/norm", "features.0.1"),
        (r"stage(\d)/transition/norm", lambda m: f"features.{2 * int(m[1]) - 2}.0"),
        (r"stage(\d)/transition/conv", lambda m: f"features.{2 * int(m[1]) - 2}.1"),
        (BLOCK + r"depthwise", lambda m: f"{_block(m)}.block.0"),
        (BLOCK + r"norm", lambda m: f"{_block(m)}.block.2"),
        (BLOCK + r"mlp/fc1", lambda m: f"{_block(m)}.block.3"),
        (BLOCK + r"mlp/fc2", lambda m: f"{_block(m)}.block.5"),
        (r"head/norm", "classifier.0"),
        (r"head/fc", "classifier.2"),
    ),
    tensors=((BLOCK + "layer_scale", lambda m: f"{_block(m)}.layer_scale"),),
    kernels={
        f"stage{stage}/blocks/{block}/layer_scale": ((width, 1, 1), np.ravel)
        for stage, (depth, width) in enumerate(zip(_DEPTHS, _WIDTHS, strict=True), 1)
        for block in range(depth)
    },
)


def _stage(match: re.Match[str]) -> str:
    """timm counts from 0, and has what leads to a stage within it."""
    return f"stages.{int(match[1]) - 1}"


TIMM = Layout(
    "timm",
    (
        (r"stem/conv", "stem.0"),
        (r"stem/norm", "stem.1"),
        (r"stage(\d)/transition/norm", lambda m: f"{_stage(m)}.downsample.0"),
        (r"stage(\d)/transition/conv", lambda m: f"{_stage(m)}.downsample.1"),
        (BLOCK + r"depthwise", lambda m: f"{_stage(m)}.blocks.{m[2]}.conv_dw"),
        (
            BLOCK + r"(norm|mlp/fc1|mlp/fc2)",
            lambda m: f"{_stage(m)}.blocks.{m[2]}.{m[3].replace('/', '.')}",
        ),
        (r"head/(norm|fc)", r"head.\1"),
    ),
    tensors=((BLOCK + "layer_scale", lambda m: f"{_stage(m)}.blocks.{m[2]}.gamma"),),
)

architecture(
    "convnext_tiny",
    weights=torchvision("convnext_tiny-983f1562.pth"),
    top1=82.520,
    layouts=(TORCHVISION, TIMM),
)(functools.partial(convnext, depths=_DEPTHS, widths=_WIDTHS))
