"""What mobile networks are built of: inverted residuals (Sandler et al. 2018, arXiv:1801.04381, section 3.3).

MobileNetV2 and V3 and the EfficientNets differ in widths, kernel sizes and activations alone: a table of blocks.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from osteojax.models.backbone import Backbone, PoolHead, Stage
from osteojax.models.layers.convolution import Conv, ConvBN, Input, InputConvBN, LayerOptions
from osteojax.models.published import BLOCK, Layout, Rule

Activation = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Block:
    """A line of such a network's table.

    Attributes:
        width: channels between expansion and projection; where they are those of the input, nothing is expanded.
        outputs: channels behind the projection.
        size: side of the depthwise kernel.
        stride: of the depthwise convolution.
        squeezed: channels that squeeze-and-excitation narrows to; 0 for none.
        activation: behind the expansion and the depthwise convolution.
    """

    width: int
    outputs: int
    size: int
    stride: int
    activation: Activation
    squeezed: int = 0


@dataclasses.dataclass(frozen=True)
class Gate:
    """The two functions of squeeze-and-excitation: between its layers, and of the factors that come out."""

    hidden: Activation
    factor: Activation


class ConvAct(nnx.Module):
    """1x1 convolution, batch norm, activation: the last layer before the head."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        activation: Activation,
        options: LayerOptions,
        rngs: nnx.Rngs,
    ) -> None:
        self.conv = ConvBN(in_features, out_features, 1, options=options, rngs=rngs)
        self.activation = activation

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """(B, H, W, in) -> (B, H, W, out)."""
        return self.activation(self.conv(x, mask))


class MobileStem(nnx.Module):
    """3x3 convolution at stride 2, batch norm, activation."""

    def __init__(
        self, features: int, *, activation: Activation, image: Input, options: LayerOptions, rngs: nnx.Rngs
    ) -> None:
        self.conv = InputConvBN(features, 3, image=image, stride=2, options=options, rngs=rngs)
        self.activation = activation

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Images (B, H, W, in_channels) -> (B, H / 2, W / 2, features)."""
        return self.activation(self.conv(x, mask))


class SqueezeExcite(nnx.Module):
    """Channels weighted by what their means over the image say (Hu et al. 2018, arXiv:1709.01507, section 3)."""

    def __init__(
        self, features: int, squeezed: int, *, gate: Gate, options: LayerOptions, rngs: nnx.Rngs
    ) -> None:
        self.squeeze = Conv(features, squeezed, 1, bias=True, options=options, rngs=rngs)
        self.excite = Conv(squeezed, features, 1, bias=True, options=options, rngs=rngs)
        self.gate = gate

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, H, W, C) -> the same shape."""
        mean = x.mean((1, 2), keepdims=True, dtype=jnp.float32)
        return x * self.gate.factor(self.excite(self.gate.hidden(self.squeeze(mean))))


class InvertedResidual(nnx.Module):
    """1x1 expansion, depthwise convolution, perhaps squeeze-and-excitation, linear 1x1 projection (MBConv)."""

    def __init__(
        self, in_features: int, block: Block, *, gate: Gate | None, options: LayerOptions, rngs: nnx.Rngs
    ) -> None:
        width = block.width
        self.expand = (
            None if width == in_features else ConvBN(in_features, width, 1, options=options, rngs=rngs)
        )
        self.depthwise = ConvBN(
            width, width, block.size, stride=block.stride, feature_groups=width, options=options, rngs=rngs
        )
        self.excite = (
            SqueezeExcite(width, block.squeezed, gate=gate, options=options, rngs=rngs)
            if gate is not None and block.squeezed
            else None
        )
        self.project = ConvBN(width, block.outputs, 1, options=options, rngs=rngs)
        self.activation = block.activation
        self.residual = block.stride == 1 and in_features == block.outputs
        if self.residual:
            self.drop: nnx.Dropout | None = None

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """(B, H, W, in) -> (B, H / stride, W / stride, outputs)."""
        y = x if self.expand is None else self.activation(self.expand(x, mask))
        y = self.activation(self.depthwise(y, mask))
        y = self.project(y if self.excite is None else self.excite(y), mask)
        if not self.residual:
            return y
        return x + (y if self.drop is None else self.drop(y))


def mobile_stages(
    inputs: int,
    table: Sequence[Iterable[Block]],
    last: int,
    *,
    activation: Activation,
    gate: Gate | None = None,
    options: LayerOptions,
    rngs: nnx.Rngs,
) -> list[Stage]:
    """The four stages of a table; the 1x1 convolution to `last` features behind them belongs to the fourth."""
    stages: list[list[nnx.Module]] = []
    for blocks in table:
        stages.append([])
        for block in blocks:
            stages[-1].append(InvertedResidual(inputs, block, gate=gate, options=options, rngs=rngs))
            inputs = block.outputs
    stages[-1].append(ConvAct(inputs, last, activation=activation, options=options, rngs=rngs))
    return [Stage(blocks) for blocks in stages]


def mobile_network(
    arch: str,
    classes: int,
    inputs: int,
    table: Sequence[Iterable[Block]],
    last: int,
    *,
    activation: Activation,
    gate: Gate | None = None,
    image: Input,
    options: LayerOptions,
    rngs: nnx.Rngs,
) -> Backbone:
    """A stem of `inputs` features, the stages of a table up to `last` features, and a pooling head."""
    stem = MobileStem(inputs, activation=activation, image=image, options=options, rngs=rngs)
    stages = mobile_stages(inputs, table, last, activation=activation, gate=gate, options=options, rngs=rngs)
    return Backbone(arch, stem, stages, PoolHead(last, classes, rngs=rngs))


def torchvision_part(block: str, parts: Sequence[str], match: re.Match[str]) -> str:
    """torchvision's name of a module of a block, which is a list of those of its parts that it has.

    Args:
        block: the block's own name.
        parts: those that it has, in order, of expand, depthwise, excite, project.
        match: of our name; group 3 is the part, "excite" with the layer within.
    """
    role = match[3]
    part = f"{block}.block.{parts.index(role.partition('/')[0])}"
    if role.startswith("excite"):
        return f"{part}.{'fc1' if role == 'excite/squeeze' else 'fc2'}"
    return f"{part}.{int(match[0].endswith('/norm'))}"


def timm_part(block: str, expands: bool, match: re.Match[str]) -> str:
    """timm's name of a module of a block: without an expansion its names shift by one.

    Args:
        block: the block's own name.
        expands: whether it widens its input first.
        match: of our name; group 3 is the part, "excite" with the layer within.
    """
    role = match[3]
    if role.startswith("excite"):
        return f"{block}.se.{'conv_reduce' if role == 'excite/squeeze' else 'conv_expand'}"
    roles = ("expand", "depthwise", "project") if expands else ("depthwise", "project")
    convs = ("conv_pw", "conv_dw", "conv_pwl") if expands else ("conv_dw", "conv_pw")
    position = roles.index(role)
    return f"{block}.{f'bn{position + 1}' if match[0].endswith('/norm') else convs[position]}"


_STEMS = {"torchvision": ("features.0.0", "features.0.1"), "timm": ("conv_stem", "bn1")}


def mobile_layout(
    name: str,
    last: tuple[str, str, str],
    block: Callable[[re.Match[str]], str],
    head: Sequence[Rule],
    **fields: Any,
) -> Layout:
    """The layout of a network of these blocks.

    Args:
        name: of the origin, "torchvision" or "timm".
        last: our path of the last convolution, and the origin's names of it and of its norm.
        block: the origin's name of a module of a block, of a match as `torchvision_part` and `timm_part` take it.
        head: rules of the head.
        **fields: of the layout, beside its rules.
    """
    (stem, stem_norm), (path, conv, norm) = _STEMS[name], last
    rules: tuple[Rule, ...] = (
        (r"stem/conv", stem),
        (r"stem/conv/norm", stem_norm),
        (path, conv),
        (path + "/norm", norm),
        (BLOCK + r"(expand|depthwise|project|excite/squeeze|excite/excite)(?:/norm)?", block),
        *head,
    )
    return Layout(name, rules, **fields)


Group = tuple[int, int, int, int, int]
"""Expansion, outputs, repeats, stride of the first, kernel size: how the papers' tables are written."""


def expanded(
    inputs: int, stages: Sequence[Sequence[Group]], activation: Activation, *, squeeze: int = 0
) -> list[list[Block]]:
    """The blocks of groups whose width is a multiple of their input's.

    Args:
        inputs: channels of the first block's input.
        stages: groups by the resolution that they leave: 1/4, 1/8, 1/16, 1/32.
        activation: of every block.
        squeeze: squeeze-and-excitation narrows to this part of a block's input channels; 0 for none.
    """
    table: list[list[Block]] = []
    for groups in stages:
        table.append([])
        for expansion, outputs, repeats, first_stride, size in groups:
            for position in range(repeats):
                squeezed = max(1, inputs // squeeze) if squeeze else 0
                stride = 1 if position else first_stride
                table[-1].append(Block(expansion * inputs, outputs, size, stride, activation, squeezed))
                inputs = outputs
    return table
