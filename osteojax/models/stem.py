"""The stem that residual and densely connected networks share (He et al. 2016; Huang et al. 2017)."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from osteojax.models.layers.convolution import Input, InputConvBN, LayerOptions
from osteojax.models.layers.pool import max_pool


class Stem(nnx.Module):
    """7x7 convolution at stride 2, 3x3 maximum at stride 2."""

    def __init__(
        self,
        *,
        image: Input,
        options: LayerOptions,
        rngs: nnx.Rngs,
    ) -> None:
        self.conv = InputConvBN(64, 7, image=image, stride=2, options=options, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Images (B, H, W, in_channels) -> (B, H / 4, W / 4, 64)."""
        pool = functools.partial(max_pool, size=3, stride=2, padding=1)
        if self.conv.options.dtype == jnp.bfloat16:
            # ReLU commutes with the maximum, in value and gradient, and has a quarter of the pixels behind it.
            return jax.nn.relu(self.conv.pooled(x, mask, pool))
        return pool(jax.nn.relu(self.conv(x, mask)))
