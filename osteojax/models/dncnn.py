"""DnCNN: a plain convolutional network that predicts the noise of an image.

Zhang, Zuo, Chen, Meng and Zhang, "Beyond a Gaussian denoiser: residual learning of deep CNN for image denoising",
IEEE TIP 26(7), 2017, section III: 3x3 convolutions in a row, ReLU between them, batch norm in all but the first and
the last; what comes out is subtracted from the image.

With a downsampling of 2 the convolutions see the four images of every second pixel as channels, which is what FFDNet
adds (Zhang, Zuo and Zhang, IEEE TIP 27(9), 2018, section III): twice as far for a quarter of the positions.
"""

import math
from typing import Any

import jax
from flax import nnx

from osteojax.models.layers.convolution import Conv, ConvBN, LayerOptions


class DnCNN(nnx.Module):
    """The network, in training mode.

    Attributes:
        depth: number of convolutions.
        width: channels between them.
        batch_norm: whether there is batch norm, as in training; `merged` is without.
        downsampling: side of the squares of pixels that the convolutions see as channels; 1 is the DnCNN of 2017.
        layers: the convolutions, in order.
    """

    def __init__(
        self, depth: int, width: int, *, batch_norm: bool = True, downsampling: int = 1, rngs: nnx.Rngs
    ) -> None:
        self.depth, self.width, self.batch_norm, self.downsampling = depth, width, batch_norm, downsampling
        # Momentum: a run on CPU is short, and 0.1 of the newest batch is noise in statistics that are used at its end.
        options = LayerOptions(bn_momentum=0.02)
        shown = downsampling**2
        first = Conv(shown, width, 3, bias=True, options=options, rngs=rngs)
        between: list[Conv] = [
            ConvBN(width, width, 3, options=options, rngs=rngs)
            if batch_norm
            else Conv(width, width, 3, bias=True, options=options, rngs=rngs)
            for _ in range(depth - 2)
        ]
        last = Conv(width, shown, 3, bias=True, options=options, rngs=rngs)
        # He's fan-out is few channels here: by fan-in the first residuals are of the size of the activations.
        last.kernel[...] *= math.sqrt(shown / (2 * width))
        layers: list[Any] = [first, *between, last]
        self.layers = nnx.List(layers)

    def __call__(self, x: jax.Array) -> jax.Array:
        """The denoised images of images x, both (B, H, W, 1) float32 with grey levels in [0, 1] or about that."""
        return x - self.residual(x)

    def residual(self, x: jax.Array) -> jax.Array:
        """The noise in images x, both (B, H, W, 1) float32; borders are padded with zeros.

        H and W are multiples of `downsampling`.
        """
        h = self._folded(x)
        for layer in self.layers[:-1]:
            h = jax.nn.relu(layer(h))
        return self._unfolded(self.layers[-1](h))

    def _folded(self, x: jax.Array) -> jax.Array:
        """(B, H, W, 1) -> (B, H / side, W / side, side**2): each square of pixels as channels, row by row."""
        side = self.downsampling
        count, height, width, _ = x.shape
        squares = x.reshape(count, height // side, side, width // side, side)
        return squares.transpose(0, 1, 3, 2, 4).reshape(count, height // side, width // side, side**2)

    def _unfolded(self, h: jax.Array) -> jax.Array:
        """The inverse."""
        side = self.downsampling
        count, rows, columns, _ = h.shape
        squares = h.reshape(count, rows, columns, side, side)
        return squares.transpose(0, 1, 3, 2, 4).reshape(count, rows * side, columns * side, 1)

    @property
    def reach(self) -> int:
        """Pixels around an image of whole squares that its result depends on, each way."""
        return self.depth * self.downsampling

    def merged(self) -> "DnCNN":
        """The same function in inference mode, with every batch norm within the convolution before it."""
        plain = DnCNN(
            self.depth, self.width, batch_norm=False, downsampling=self.downsampling, rngs=nnx.Rngs(0)
        )
        for layer, own in zip(plain.layers, self.layers, strict=True):
            if isinstance(own, ConvBN):
                factor, offset = own.norm.affine()
                layer.kernel[...], layer.bias[...] = own.kernel[...] * factor, offset
            else:
                layer.kernel[...], layer.bias[...] = own.kernel[...], own.bias[...]
        return plain
