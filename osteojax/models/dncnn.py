"""DnCNN: a plain convolutional network that predicts the noise of an image.

Zhang, Zuo, Chen, Meng and Zhang, "Beyond a Gaussian denoiser: residual learning of deep CNN for image denoising",
IEEE TIP 26(7), 2017, section III: 3x3 convolutions in a row, ReLU between them, batch norm in all but the first and
the last; what comes out is subtracted from the image.
"""

import math
from typing import Any

import jax
from flax import nnx

from osteojax.models.layers.convolution import Conv, ConvBN, LayerOptions


class DnCNN(nnx.Module):
    """The network, in training mode.

    Attributes:
        depth: number of convolutions; an output pixel depends on input pixels up to so many away, each way.
        width: channels between them.
        batch_norm: whether there is batch norm, as in training; `merged` is without.
        layers: the convolutions, in order.
    """

    def __init__(self, depth: int, width: int, *, batch_norm: bool = True, rngs: nnx.Rngs) -> None:
        self.depth, self.width, self.batch_norm = depth, width, batch_norm
        # Momentum: a run on CPU is short, and 0.1 of the newest batch is noise in statistics that are used at its end.
        options = LayerOptions(bn_momentum=0.02)
        first = Conv(1, width, 3, bias=True, options=options, rngs=rngs)
        between: list[Conv] = [
            ConvBN(width, width, 3, options=options, rngs=rngs)
            if batch_norm
            else Conv(width, width, 3, bias=True, options=options, rngs=rngs)
            for _ in range(depth - 2)
        ]
        last = Conv(width, 1, 3, bias=True, options=options, rngs=rngs)
        # He's fan-out is one channel here: by fan-in the first residuals are of the size of the activations.
        last.kernel[...] *= 1 / math.sqrt(2 * width)
        layers: list[Any] = [first, *between, last]
        self.layers = nnx.List(layers)

    def __call__(self, x: jax.Array) -> jax.Array:
        """The denoised images of images x, both (B, H, W, 1) float32 with grey levels in [0, 1] or about that."""
        return x - self.residual(x)

    def residual(self, x: jax.Array) -> jax.Array:
        """The noise in images x, both (B, H, W, 1) float32; borders are padded with zeros."""
        h = x
        for layer in self.layers[:-1]:
            h = jax.nn.relu(layer(h))
        return self.layers[-1](h)

    def merged(self) -> "DnCNN":
        """The same function in inference mode, with every batch norm within the convolution before it."""
        plain = DnCNN(self.depth, self.width, batch_norm=False, rngs=nnx.Rngs(0))
        for layer, own in zip(plain.layers, self.layers, strict=True):
            if isinstance(own, ConvBN):
                factor, offset = own.norm.affine()
                layer.kernel[...], layer.bias[...] = own.kernel[...] * factor, offset
            else:
                layer.kernel[...], layer.bias[...] = own.kernel[...], own.bias[...]
        return plain
