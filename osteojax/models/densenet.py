"""DenseNet-121 (Huang et al. 2017, arXiv:1608.06993), in the layout of torchvision.

A transition opens the stage that it leads into, so that stages begin where the resolution falls.
"""

import functools
import re

import jax
import jax.numpy as jnp
from flax import nnx

from osteojax.models.backbone import Backbone, PoolHead, Stage
from osteojax.models.layers.convolution import Conv, ConvBN, Input, LayerOptions
from osteojax.models.layers.pool import avg_pool2
from osteojax.models.published import BLOCK, Layout, torchvision
from osteojax.models.registry import architecture
from osteojax.models.stem import Stem

GROWTH = 32
BOTTLENECK = 4 * GROWTH


class DenseLayer(nnx.Module):
    """Norm, ReLU, 1x1 convolution, norm, ReLU, 3x3 convolution; its output is appended to its input."""

    def __init__(self, in_features: int, *, options: LayerOptions, rngs: nnx.Rngs) -> None:
        self.norm = options.batch_norm(in_features)
        self.conv1 = ConvBN(in_features, BOTTLENECK, 1, options=options, rngs=rngs)
        self.conv2 = Conv(BOTTLENECK, GROWTH, 3, options=options, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """(B, H, W, in) -> (B, H, W, in + 32)."""
        y = jax.nn.relu(self.conv1(jax.nn.relu(self.norm(x, mask)), mask))
        return jnp.concatenate([x, self.conv2(y)], axis=-1)


class Transition(nnx.Module):
    """Norm, ReLU, 2x2 mean, 1x1 convolution to half the features.

    The original convolves before it averages; the two commute, and this way round costs a quarter.
    """

    def __init__(self, in_features: int, *, options: LayerOptions, rngs: nnx.Rngs) -> None:
        self.norm = options.batch_norm(in_features)
        self.conv = Conv(in_features, in_features // 2, 1, options=options, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """(B, H, W, in) -> (B, H / 2, W / 2, in / 2)."""
        return self.conv(avg_pool2(jax.nn.relu(self.norm(x, mask))))


class FinalNorm(nnx.Module):
    """Norm and ReLU after the last dense block."""

    def __init__(self, features: int, *, options: LayerOptions) -> None:
        self.norm = options.batch_norm(features)

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """(B, H, W, C) -> the same shape."""
        return jax.nn.relu(self.norm(x, mask))


class DenseStage(Stage):
    """Transition (but in the first stage), dense layers, final norm (only in the last)."""

    def __init__(
        self, in_features: int, depth: int, *, first: bool, last: bool, options: LayerOptions, rngs: nnx.Rngs
    ) -> None:
        transition = None if first else Transition(in_features, options=options, rngs=rngs)
        start = in_features if first else in_features // 2
        self.features = start + depth * GROWTH
        super().__init__(
            [DenseLayer(start + i * GROWTH, options=options, rngs=rngs) for i in range(depth)],
            transition=transition,
            final=FinalNorm(self.features, options=options) if last else None,
        )


def densenet(
    arch: str,
    classes: int,
    *,
    depths: tuple[int, int, int, int],
    image: Input,
    options: LayerOptions,
    rngs: nnx.Rngs,
) -> Backbone:
    """A DenseNet of growth rate 32 with `depths` layers in its blocks."""
    stem = Stem(image=image, options=options, rngs=rngs)
    features = 64
    stages = []
    for index, depth in enumerate(depths):
        stage = DenseStage(
            features, depth, first=index == 0, last=index == len(depths) - 1, options=options, rngs=rngs
        )
        features = stage.features
        stages.append(stage)
    return Backbone(arch, stem, stages, PoolHead(features, classes, rngs=rngs))


def _layout(name: str, separator: str) -> Layout:
    """`separator` is what stands between "norm" or "conv" and its number in a dense layer."""

    def layer(match: re.Match[str]) -> str:
        return f"features.denseblock{match[1]}.denselayer{int(match[2]) + 1}"

    def transition(match: re.Match[str]) -> str:
        return f"features.transition{int(match[1]) - 1}"

    return Layout(
        name,
        (
            (r"stem/conv", "features.conv0"),
            (r"stem/conv/norm", "features.norm0"),
            (BLOCK + r"norm", lambda m: f"{layer(m)}.norm{separator}1"),
            (BLOCK + r"conv1", lambda m: f"{layer(m)}.conv{separator}1"),
            (BLOCK + r"conv1/norm", lambda m: f"{layer(m)}.norm{separator}2"),
            (BLOCK + r"conv2", lambda m: f"{layer(m)}.conv{separator}2"),
            (r"stage(\d)/transition/norm", lambda m: f"{transition(m)}.norm"),
            (r"stage(\d)/transition/conv", lambda m: f"{transition(m)}.conv"),
            (r"stage4/final/norm", "features.norm5"),
            (r"head/fc", "classifier"),
        ),
    )


TORCHVISION = _layout("torchvision", "")
# torchvision's own file still has the names of PyTorch 0.3 ("norm.1").
TORCHVISION_2017 = _layout("torchvision (2017)", ".")

architecture(
    "densenet121",
    weights=torchvision("densenet121-a639ec97.pth"),
    top1=74.434,
    layouts=(TORCHVISION, TORCHVISION_2017),
)(functools.partial(densenet, depths=(6, 12, 24, 16)))
