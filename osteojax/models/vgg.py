"""VGG-16 with batch norm (Simonyan and Zisserman 2015, arXiv:1409.1556), in the layout of torchvision.

The bias that torchvision's convolutions have before batch norm is dropped: it only shifts the mean that the
norm subtracts, and loading takes it into the running mean. The head has the original's two hidden layers;
its dropout, which holds no weights, is left out.
"""

import jax
from flax import nnx

from osteojax.models.backbone import Backbone
from osteojax.models.layers.convolution import ConvBN, InputConvBN, LayerOptions, Linear
from osteojax.models.layers.pool import adaptive_avg_pool, max_pool

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
        h = adaptive_avg_pool(h, HEAD_BINS)
        h = jax.nn.relu(self.fc1(h.reshape(h.shape[0], -1)))
        return self.fc(jax.nn.relu(self.fc2(h)))


def vgg16_bn(
    *,
    arch: str,
    num_classes: int,
    in_channels: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    options: LayerOptions,
    rngs: nnx.Rngs,
) -> Backbone:
    """VGG-16-BN: its first two convolutions are the `stem`, the other four groups the stages."""
    features = _WIDTHS[0][0]
    first = InputConvBN(features, 3, in_channels=in_channels, mean=mean, std=std, options=options, rngs=rngs)
    parts = []
    for index, widths in enumerate(_WIDTHS):
        convs: list[ConvBN] = [first] if index == 0 else []
        for width in widths[len(convs) :]:
            convs.append(ConvBN(features, width, 3, options=options, rngs=rngs))
            features = width
        parts.append(VGGStage(convs))
    head = VGGHead(features, num_classes, options=options, rngs=rngs)
    return Backbone(arch, parts[0], parts[1:], head)
