"""EfficientNet-Lite0 (Tan and Le 2019, arXiv:1905.11946; the Lite variant of the TensorFlow TPU repository).

EfficientNet-B0 without squeeze-and-excitation and with ReLU6 for swish. Training regularisers of the original
(drop connect, dropout) are left out: they hold no weights, and fine-tuning regularises in the training
engine.
"""

import jax
from flax import nnx

from osteojax.models.backbone import Backbone, PoolHead, Stage
from osteojax.models.layers.activations import relu6
from osteojax.models.layers.convolution import ConvBN, InputConvBN, LayerOptions

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
        in_channels: int,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        options: LayerOptions,
        rngs: nnx.Rngs,
    ) -> None:
        self.conv = InputConvBN(
            32, 3, in_channels=in_channels, mean=mean, std=std, stride=2, options=options, rngs=rngs
        )

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
        self.depthwise = ConvBN(width, width, size, stride=stride, groups=width, options=options, rngs=rngs)
        self.project = ConvBN(width, out_features, 1, options=options, rngs=rngs)
        self.residual = stride == 1 and in_features == out_features

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """(B, H, W, in) -> (B, H / stride, W / stride, out)."""
        y = x if self.expand is None else relu6(self.expand(x, mask))
        y = self.project(relu6(self.depthwise(y, mask)), mask)
        return x + y if self.residual else y


def efficientnet_lite0(
    *,
    arch: str,
    num_classes: int,
    in_channels: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    options: LayerOptions,
    rngs: nnx.Rngs,
) -> Backbone:
    """EfficientNet-Lite0; its last 1x1 convolution, to 1,280 features, belongs to `stage4`."""
    stem = Stem(in_channels=in_channels, mean=mean, std=std, options=options, rngs=rngs)
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
    return Backbone(arch, stem, [Stage(blocks) for blocks in stages], PoolHead(1280, num_classes, rngs=rngs))
