"""MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381) and V3 (Howard et al. 2019, arXiv:1905.02244).

In the layouts of torchvision and timm.
"""

import re

import jax
from flax import nnx

from osteojax.models.backbone import Backbone, Head
from osteojax.models.inverted_residual import (
    Block,
    Gate,
    MobileStem,
    expanded,
    mobile_layout,
    mobile_network,
    mobile_stages,
    timm_part,
    torchvision_part,
)
from osteojax.models.layers.activations import relu6
from osteojax.models.layers.convolution import Input, LayerOptions, Linear
from osteojax.models.published import torchvision
from osteojax.models.registry import architecture

# Table 2 of the paper, by the resolution that its lines leave: 1/4, 1/8, 1/16, 1/32.
_V2_GROUPS = (
    ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3)),
    ((6, 32, 3, 2, 3),),
    ((6, 64, 4, 2, 3), (6, 96, 3, 1, 3)),
    ((6, 160, 3, 2, 3), (6, 320, 1, 1, 3)),
)
# Where each of our stages begins in torchvision's list of layers, the first of which is the stem.
_V2_START = {"1": 1, "2": 4, "3": 7, "4": 14}
_V2_LAST = r"stage4/blocks/4/conv"


def _v2_module(match: re.Match[str]) -> str:
    """A convolution is `conv.I.0` with its norm `conv.I.1`, but the projection `conv.I` with `conv.I+1`."""
    place = _V2_START[match[1]] + int(match[2])
    roles = ("depthwise", "project") if place == 1 else ("expand", "depthwise", "project")
    position, is_norm = roles.index(match[3]), match[0].endswith("/norm")
    inner = f"{position + is_norm}" if match[3] == "project" else f"{position}.{int(is_norm)}"
    return f"features.{place}.conv.{inner}"


V2_TORCHVISION = mobile_layout(
    "torchvision", (_V2_LAST, "features.18.0", "features.18.1"), _v2_module, [(r"head/fc", "classifier.1")]
)

# timm's groups are the lines of the table: (group, repeat) of each block, in order.
_V2_TIMM = [
    (group, repeat)
    for group, repeats in enumerate(line[2] for lines in _V2_GROUPS for line in lines)
    for repeat in range(repeats)
]


def _v2_timm_module(match: re.Match[str]) -> str:
    group, repeat = _V2_TIMM[_V2_START[match[1]] - 1 + int(match[2])]
    return timm_part(f"blocks.{group}.{repeat}", group > 0, match)


V2_TIMM = mobile_layout("timm", (_V2_LAST, "conv_head", "bn2"), _v2_timm_module, [(r"head/fc", "classifier")])


@architecture(
    "mobilenet_v2",
    weights=torchvision("mobilenet_v2-b0353104.pth"),
    top1=71.878,
    layouts=(V2_TORCHVISION, V2_TIMM),
)
def mobilenet_v2(arch: str, classes: int, *, image: Input, options: LayerOptions, rngs: nnx.Rngs) -> Backbone:
    """MobileNetV2 of width 1; its last 1x1 convolution, to 1,280 features, belongs to `stage4`."""
    table = expanded(32, _V2_GROUPS, relu6)
    return mobile_network(
        arch, classes, 32, table, 1280, activation=relu6, image=image, options=options, rngs=rngs
    )


# Table 1 of the V3 paper, by the resolution that its lines leave. What is squeezed to is a quarter of the width, in
# multiples of eight.
_RELU, _SWISH = jax.nn.relu, jax.nn.hard_swish
_V3_TABLE = (
    (
        Block(16, 16, 3, 1, _RELU),
        Block(64, 24, 3, 2, _RELU),
        Block(72, 24, 3, 1, _RELU),
    ),
    (
        Block(72, 40, 5, 2, _RELU, 24),
        Block(120, 40, 5, 1, _RELU, 32),
        Block(120, 40, 5, 1, _RELU, 32),
    ),
    (
        Block(240, 80, 3, 2, _SWISH),
        Block(200, 80, 3, 1, _SWISH),
        Block(184, 80, 3, 1, _SWISH),
        Block(184, 80, 3, 1, _SWISH),
        Block(480, 112, 3, 1, _SWISH, 120),
        Block(672, 112, 3, 1, _SWISH, 168),
    ),
    (
        Block(672, 160, 5, 2, _SWISH, 168),
        Block(960, 160, 5, 1, _SWISH, 240),
        Block(960, 160, 5, 1, _SWISH, 240),
    ),
)
_V3_START = {"1": 1, "2": 4, "3": 7, "4": 13}
_V3_LAST = r"stage4/blocks/3/conv"
_V3_FEATURES, _V3_HIDDEN = 960, 1280


class HiddenHead(Head):
    """Global average pooling, a hidden layer with hard swish, one linear layer to the classes in float32."""

    def __init__(self, in_features: int, num_classes: int, *, options: LayerOptions, rngs: nnx.Rngs) -> None:
        self.fc1 = Linear(in_features, _V3_HIDDEN, dtype=options.dtype, rngs=rngs)
        self.fc = Linear(_V3_HIDDEN, num_classes, rngs=rngs)

    def pre_logits(self, h: jax.Array) -> jax.Array:
        """(B, H, W, C), or (B, C) of `pool`, -> (B, 1280) in the compute dtype."""
        return _SWISH(self.fc1(super().pre_logits(h)))


def _v3_module(match: re.Match[str]) -> str:
    """A block is a list of those of its four parts that it has."""
    stage, position = int(match[1]), int(match[2])
    block = _V3_TABLE[stage - 1][position]
    place = _V3_START[match[1]] + position
    roles = [
        *(() if place == 1 else ("expand",)),
        "depthwise",
        *(("excite",) if block.squeezed else ()),
        "project",
    ]
    return torchvision_part(f"features.{place}", roles, match)


V3_TORCHVISION = mobile_layout(
    "torchvision",
    (_V3_LAST, "features.16.0", "features.16.1"),
    _v3_module,
    [(r"head/fc1", "classifier.0"), (r"head/fc", "classifier.3")],
)

# Blocks in timm's groups, which are the lines of the table that share a width.
_V3_REPEATS = (1, 2, 3, 4, 2, 3)
_V3_TIMM = [(group, repeat) for group, repeats in enumerate(_V3_REPEATS) for repeat in range(repeats)]


def _v3_timm_module(match: re.Match[str]) -> str:
    group, repeat = _V3_TIMM[_V3_START[match[1]] - 1 + int(match[2])]
    return timm_part(f"blocks.{group}.{repeat}", group > 0, match)


V3_TIMM = mobile_layout(
    "timm",
    (_V3_LAST, "blocks.6.0.conv", "blocks.6.0.bn1"),
    _v3_timm_module,
    [(r"head/fc1", "conv_head"), (r"head/fc", "classifier")],
    # timm's hidden layer is a convolution of the pooled features.
    kernels={
        "head/fc1/kernel": (
            (_V3_HIDDEN, _V3_FEATURES, 1, 1),
            lambda kernel: kernel.reshape(_V3_HIDDEN, _V3_FEATURES).T,
        )
    },
)


# timm's own training (mobilenetv3_large_100.ra_in1k): same tensors, PyTorch's batch-norm constants.
@architecture("mobilenet_v3_large_timm", layouts=(V3_TIMM,))
@architecture(
    "mobilenet_v3_large",
    weights=torchvision("mobilenet_v3_large-8738ca79.pth"),
    top1=74.042,
    layouts=(V3_TORCHVISION,),
    options={"bn_eps": 1e-3, "bn_momentum": 0.01},
)
def mobilenet_v3_large(
    arch: str, classes: int, *, image: Input, options: LayerOptions, rngs: nnx.Rngs
) -> Backbone:
    """MobileNetV3-Large of width 1; its last 1x1 convolution, to 960 features, belongs to `stage4`."""
    gate = Gate(hidden=_RELU, factor=jax.nn.hard_sigmoid)
    stem = MobileStem(16, activation=_SWISH, image=image, options=options, rngs=rngs)
    stages = mobile_stages(
        16, _V3_TABLE, _V3_FEATURES, activation=_SWISH, gate=gate, options=options, rngs=rngs
    )
    return Backbone(arch, stem, stages, HiddenHead(_V3_FEATURES, classes, options=options, rngs=rngs))
