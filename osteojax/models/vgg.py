"""VGG-16 with batch norm (Simonyan and Zisserman 2015, arXiv:1409.1556), in the layout of torchvision.

The bias that torchvision's convolutions have before batch norm is dropped: it only shifts the mean that the
norm subtracts, and loading takes it into the running mean. The head has the original's two hidden layers;
its dropout, which holds no weights, is left out.
"""

import re

import jax
import numpy as np
from flax import nnx

from osteojax.models.backbone import Backbone
from osteojax.models.layers.convolution import ConvBN, Input, InputConvBN, LayerOptions, Linear
from osteojax.models.layers.pool import adaptive_avg_pool, max_pool
from osteojax.models.published import Layout, torchvision
from osteojax.models.registry import architecture

_WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
HEAD_BINS = 7
HIDDEN = 4096


class VGGStage(nnx.Module):
    """3x3 convolutions with batch norm and ReLU, then a 2x2 maximum."""

    def __init__(self, convs: list[ConvBN]) -> None:
        self.convs = nnx.List(convs)

    def __call__(self, h: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """(B, H, W, C) -> (B, H / 2, W / 2, C')."""
        for conv in self.convs:
            h = jax.nn.relu(conv(h, mask))
        return max_pool(h, 2, 2)


class VGGHead(nnx.Module):
    """7x7 adaptive mean, two hidden layers of 4,096, one linear layer to the classes in float32."""

    def __init__(self, in_features: int, num_classes: int, *, options: LayerOptions, rngs: nnx.Rngs) -> None:
        self.fc1 = Linear(HEAD_BINS**2 * in_features, HIDDEN, dtype=options.dtype, rngs=rngs)
        self.fc2 = Linear(HIDDEN, HIDDEN, dtype=options.dtype, rngs=rngs)
        self.fc = Linear(HIDDEN, num_classes, rngs=rngs)

    def __call__(self, h: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """(B, H, W, C) -> logits (B, num_classes) float32."""
        return self.fc(self.pre_logits(h))

    def pre_logits(self, h: jax.Array) -> jax.Array:
        """(B, H, W, C) -> (B, 4096) in the compute dtype: what the last layer takes."""
        h = adaptive_avg_pool(h, HEAD_BINS)
        h = jax.nn.relu(self.fc1(h.reshape(h.shape[0], -1)))
        return jax.nn.relu(self.fc2(h))


# VGG-16: where each group of convolutions starts in the list of layers (3 a convolution, 1 a pooling).
_VGG_START = {"stem": 0, "stage1": 7, "stage2": 14, "stage3": 24, "stage4": 34}


def _vgg_layer(match: re.Match[str]) -> str:
    return f"features.{_VGG_START[match[1]] + 3 * int(match[2]) + match[0].endswith('/norm')}"


def _from_chw_rows(kernel: np.ndarray) -> np.ndarray:
    """A dense kernel over features flattened as (C, 7, 7) -> ours, over (7, 7, C)."""
    return kernel.reshape(4096, 512, 7, 7).transpose(2, 3, 1, 0).reshape(-1, 4096)


_VGG_CONVS = (r"(stem|stage\d)/convs/(\d)(?:/norm)?", _vgg_layer)
_VGG_BIASED = r"(stem|stage\d)/convs/\d"

TORCHVISION = Layout(
    "torchvision",
    (
        _VGG_CONVS,
        (r"head/fc1", "classifier.0"),
        (r"head/fc2", "classifier.3"),
        (r"head/fc", "classifier.6"),
    ),
    biased=_VGG_BIASED,
    kernels={"head/fc1/kernel": ((4096, 512 * 7 * 7), _from_chw_rows)},
)

TIMM = Layout(
    "timm",
    (
        _VGG_CONVS,
        (r"head/fc1", "pre_logits.fc1"),
        (r"head/fc2", "pre_logits.fc2"),
        (r"head/fc", "head.fc"),
    ),
    biased=_VGG_BIASED,
    kernels={
        "head/fc1/kernel": ((4096, 512, 7, 7), _from_chw_rows),
        "head/fc2/kernel": ((4096, 4096, 1, 1), lambda kernel: kernel.reshape(4096, 4096).T),
    },
)


@architecture(
    "vgg16_bn", weights=torchvision("vgg16_bn-6c64b313.pth"), top1=73.360, layouts=(TORCHVISION, TIMM)
)
def vgg16_bn(
    arch: str,
    classes: int,
    *,
    image: Input,
    options: LayerOptions,
    rngs: nnx.Rngs,
) -> Backbone:
    """VGG-16-BN: its first two convolutions are the `stem`, the other four groups the stages."""
    features = _WIDTHS[0][0]
    first = InputConvBN(features, 3, image=image, options=options, rngs=rngs)
    parts = []
    for index, widths in enumerate(_WIDTHS):
        convs: list[ConvBN] = [first] if index == 0 else []
        for width in widths[len(convs) :]:
            convs.append(ConvBN(features, width, 3, options=options, rngs=rngs))
            features = width
        parts.append(VGGStage(convs))
    head = VGGHead(features, classes, options=options, rngs=rngs)
    return Backbone(arch, parts[0], parts[1:], head)
