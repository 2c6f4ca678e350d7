"""Residual networks (He et al. 2016, arXiv:1512.03385), in the layout of torchvision.

v1.5 puts a bottleneck's stride on its 3x3 convolution (torchvision, timm, Hugging Face), v1 on its first
1x1 (the paper, Keras): same parameters, different function.
"""

import functools
import re

import jax
from flax import nnx

from osteojax.models.backbone import Backbone, PoolHead, Stage
from osteojax.models.layers.activations import relu_of_sum
from osteojax.models.layers.convolution import ConvBN, Input, LayerOptions
from osteojax.models.published import BLOCK, CAFFE, Layout, torchvision
from osteojax.models.registry import architecture
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
        self.drop: nnx.Dropout | None = None

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """(B, H, W, in) -> (B, H / stride, W / stride, width)."""
        y = self.conv2(jax.nn.relu(self.conv1(x, mask)), mask)
        y = y if self.drop is None else self.drop(y)
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
        self.drop: nnx.Dropout | None = None

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """(B, H, W, in) -> (B, H / stride, W / stride, 4 width)."""
        y = jax.nn.relu(self.conv1(x, mask))
        y = jax.nn.relu(self.conv2(y, mask))
        y = self.conv3(y, mask)
        y = y if self.drop is None else self.drop(y)
        return relu_of_sum(y + (x if self.shortcut is None else self.shortcut(x, mask)))


def _shortcut(
    in_features: int, out_features: int, stride: int, options: LayerOptions, rngs: nnx.Rngs
) -> ConvBN | None:
    """A 1x1 projection where the shape changes (option B), nothing where it does not."""
    if stride == 1 and in_features == out_features:
        return None
    return ConvBN(in_features, out_features, 1, stride=stride, options=options, rngs=rngs)


def resnet(
    arch: str,
    classes: int,
    *,
    depths: tuple[int, int, int, int],
    bottleneck: bool,
    v1: bool = False,
    image: Input,
    options: LayerOptions,
    rngs: nnx.Rngs,
) -> Backbone:
    """A ResNet with `depths` blocks in its stages, of widths 64, 128, 256 and 512."""
    block_type = Bottleneck if bottleneck else BasicBlock
    stem = Stem(image=image, options=options, rngs=rngs)
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
    return Backbone(arch, stem, stages, PoolHead(features, classes, rngs=rngs))


TORCHVISION = Layout(
    "torchvision",
    (
        (r"stem/conv", "conv1"),
        (r"stem/conv/norm", "bn1"),
        (BLOCK + r"conv(\d)", r"layer\1.\2.conv\3"),
        (BLOCK + r"conv(\d)/norm", r"layer\1.\2.bn\3"),
        (BLOCK + r"shortcut", r"layer\1.\2.downsample.0"),
        (BLOCK + r"shortcut/norm", r"layer\1.\2.downsample.1"),
        (r"head/fc", "fc"),
    ),
)


def _hf_block(match: re.Match[str]) -> str:
    return f"resnet.encoder.stages.{int(match[1]) - 1}.layers.{match[2]}"


HUGGINGFACE = Layout(
    "huggingface",
    (
        (r"stem/conv", "resnet.embedder.embedder.convolution"),
        (r"stem/conv/norm", "resnet.embedder.embedder.normalization"),
        (BLOCK + r"conv(\d)", lambda m: f"{_hf_block(m)}.layer.{int(m[3]) - 1}.convolution"),
        (BLOCK + r"conv(\d)/norm", lambda m: f"{_hf_block(m)}.layer.{int(m[3]) - 1}.normalization"),
        (BLOCK + r"shortcut", lambda m: f"{_hf_block(m)}.shortcut.convolution"),
        (BLOCK + r"shortcut/norm", lambda m: f"{_hf_block(m)}.shortcut.normalization"),
        (r"head/fc", "classifier.1"),
    ),
)


def _keras_block(match: re.Match[str]) -> str:
    return f"conv{int(match[1]) + 1}_block{int(match[2]) + 1}"


KERAS = Layout(
    "keras",
    (
        (r"stem/conv", "conv1_conv"),
        (r"stem/conv/norm", "conv1_bn"),
        (BLOCK + r"conv(\d)", lambda m: f"{_keras_block(m)}_{m[3]}_conv"),
        (BLOCK + r"conv(\d)/norm", lambda m: f"{_keras_block(m)}_{m[3]}_bn"),
        (BLOCK + r"shortcut", lambda m: f"{_keras_block(m)}_0_conv"),
        (BLOCK + r"shortcut/norm", lambda m: f"{_keras_block(m)}_0_bn"),
        (r"head/fc", "predictions"),
    ),
    keras=True,
    biased=r".*",
)

for _name, _depths, _bottleneck, _weights, _top1 in (
    ("resnet18", (2, 2, 2, 2), False, "resnet18-f37072fd.pth", 69.758),
    ("resnet34", (3, 4, 6, 3), False, "resnet34-b627a593.pth", 73.314),
    ("resnet50", (3, 4, 6, 3), True, "resnet50-0676ba61.pth", 76.130),
    ("resnet101", (3, 4, 23, 3), True, "resnet101-63fe2227.pth", 77.374),
    ("resnet152", (3, 8, 36, 3), True, "resnet152-394f9c45.pth", 78.312),
):
    architecture(_name, weights=torchvision(_weights), top1=_top1, layouts=(TORCHVISION, HUGGINGFACE))(
        functools.partial(resnet, depths=_depths, bottleneck=_bottleneck)
    )
    if _bottleneck:
        # The paper's strides with Keras's constants and pixel scale: what Keras .h5 files hold.
        architecture(f"{_name}_v1", preprocessing=CAFFE, layouts=(KERAS,), options={"bn_eps": 1.001e-5})(
            functools.partial(resnet, depths=_depths, bottleneck=True, v1=True)
        )
