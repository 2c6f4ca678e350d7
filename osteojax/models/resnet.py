"""Residual networks (He et al. 2016, arXiv:1512.03385), in the layout of torchvision.

v1.5 puts a bottleneck's stride on its 3x3 convolution (torchvision, timm, Hugging Face), v1 on its first
1x1 (the paper, Keras): same parameters, different function.
"""

import jax
from flax import nnx

from osteojax.models.backbone import Backbone, PoolHead, Stage
from osteojax.models.layers.activations import relu_of_sum
from osteojax.models.layers.convolution import ConvBN, LayerOptions
from osteojax.models.stem import Stem


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions and the shortcut (figure 5, left)."""

    expansion = 1

    def __init__(
        self, in_features: int, width: int, stride: int, *, v1: bool, options: LayerOptions, rngs: nnx.Rngs
    ) -> None:
        del v1  # one stride only; the variants differ in bottlenecks
        self.conv1 = ConvBN(in_features, width, 3, stride=stride, options=options, rngs=rngs)
        self.conv2 = ConvBN(width, width, 3, options=options, rngs=rngs)
        self.shortcut = _shortcut(in_features, width, stride, options, rngs)

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """(B, H, W, in) -> (B, H / stride, W / stride, width)."""
        y = self.conv2(jax.nn.relu(self.conv1(x, mask)), mask)
        return relu_of_sum(y + (x if self.shortcut is None else self.shortcut(x, mask)))


class Bottleneck(nnx.Module):
    """1x1, 3x3, 1x1 convolutions and the shortcut (figure 5, right)."""

    expansion = 4

    def __init__(
        self, in_features: int, width: int, stride: int, *, v1: bool, options: LayerOptions, rngs: nnx.Rngs
    ) -> None:
        strides = (stride, 1) if v1 else (1, stride)
        self.conv1 = ConvBN(in_features, width, 1, stride=strides[0], options=options, rngs=rngs)
        self.conv2 = ConvBN(width, width, 3, stride=strides[1], options=options, rngs=rngs)
        self.conv3 = ConvBN(width, 4 * width, 1, options=options, rngs=rngs)
        self.shortcut = _shortcut(in_features, 4 * width, stride, options, rngs)

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """(B, H, W, in) -> (B, H / stride, W / stride, 4 width)."""
        y = jax.nn.relu(self.conv1(x, mask))
        y = jax.nn.relu(self.conv2(y, mask))
        y = self.conv3(y, mask)
        return relu_of_sum(y + (x if self.shortcut is None else self.shortcut(x, mask)))


def _shortcut(
    in_features: int, out_features: int, stride: int, options: LayerOptions, rngs: nnx.Rngs
) -> ConvBN | None:
    """A 1x1 projection where the shape changes (option B), nothing where it does not."""
    if stride == 1 and in_features == out_features:
        return None
    return ConvBN(in_features, out_features, 1, stride=stride, options=options, rngs=rngs)


def resnet(
    *,
    arch: str,
    depths: tuple[int, int, int, int],
    bottleneck: bool,
    v1: bool = False,
    num_classes: int,
    in_channels: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    options: LayerOptions,
    rngs: nnx.Rngs,
) -> Backbone:
    """A ResNet with `depths` blocks in its stages, of widths 64, 128, 256 and 512."""
    block_type = Bottleneck if bottleneck else BasicBlock
    stem = Stem(in_channels=in_channels, mean=mean, std=std, options=options, rngs=rngs)
    features = 64
    stages = []
    for index, depth in enumerate(depths):
        width = 64 * 2**index
        blocks = []
        for position in range(depth):
            stride = 2 if index > 0 and position == 0 else 1
            blocks.append(block_type(features, width, stride, v1=v1, options=options, rngs=rngs))
            features = width * block_type.expansion
        stages.append(Stage(blocks))
    return Backbone(arch, stem, stages, PoolHead(features, num_classes, rngs=rngs))
