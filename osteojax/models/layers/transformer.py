"""Attention and what stands around it in a transformer (Vaswani et al. 2017; Dosovitskiy et al. 2021)."""

import jax
import jax.numpy as jnp
from flax import nnx

from osteojax.models.layers.convolution import LayerOptions, Linear


def layer_norm(features: int, eps: float, *, options: LayerOptions, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Normalises the last axis by its own mean and variance, in float32; the result has the compute dtype.

    The variance is that of the differences from the mean: E[x^2] - E[x]^2, Flax's quick one, cancels.
    """
    return nnx.LayerNorm(features, epsilon=eps, dtype=options.dtype, use_fast_variance=False, rngs=rngs)


class Attention(nnx.Module):
    """Multi-head self-attention; queries, keys and values are one dense layer, as timm and torchvision store it."""

    def __init__(self, features: int, heads: int, *, options: LayerOptions, rngs: nnx.Rngs) -> None:
        self.qkv = Linear(features, 3 * features, dtype=options.dtype, rngs=rngs)
        self.proj = Linear(features, features, dtype=options.dtype, rngs=rngs)
        self.heads = heads

    def __call__(self, x: jax.Array, bias: jax.Array | None = None) -> jax.Array:
        """(..., N, C) -> (..., N, C) in the compute dtype; `bias` as in `attend`."""
        return self.attend(x, bias)[0]

    def attend(self, x: jax.Array, bias: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """The result, and who looked where.

        Args:
            x: (..., N, C).
            bias: added to the scores before softmax; broadcasts to (..., heads, N, N).

        Returns:
            (..., N, C) in the compute dtype, and the attention (..., heads, N, N) float32: rows are queries and sum
            to 1.
        """
        features = x.shape[-1]
        qkv = self.qkv(x).reshape(*x.shape[:-1], 3, self.heads, features // self.heads)
        query, key, value = qkv[..., 0, :, :], qkv[..., 1, :, :], qkv[..., 2, :, :]
        scores = jnp.einsum("...qhd,...khd->...hqk", query, key).astype(jnp.float32)
        scores = scores * (features // self.heads) ** -0.5
        attention = jax.nn.softmax(scores if bias is None else scores + bias, axis=-1)
        mixed = jnp.einsum("...hqk,...khd->...qhd", attention.astype(value.dtype), value)
        return self.proj(mixed.reshape(x.shape)), attention


class Mlp(nnx.Module):
    """Two dense layers with a Gaussian error linear unit between them, for each token alone."""

    def __init__(self, features: int, hidden: int, *, options: LayerOptions, rngs: nnx.Rngs) -> None:
        self.fc1 = Linear(features, hidden, dtype=options.dtype, rngs=rngs)
        self.fc2 = Linear(hidden, features, dtype=options.dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., C) -> (..., C)."""
        return self.fc2(jax.nn.gelu(self.fc1(x), approximate=False))


class EncoderBlock(nnx.Module):
    """Attention and MLP, each behind a layer norm and beside a shortcut (pre-norm)."""

    def __init__(
        self, features: int, heads: int, *, eps: float = 1e-6, options: LayerOptions, rngs: nnx.Rngs
    ) -> None:
        self.norm1 = layer_norm(features, eps, options=options, rngs=rngs)
        self.attn = Attention(features, heads, options=options, rngs=rngs)
        self.norm2 = layer_norm(features, eps, options=options, rngs=rngs)
        self.mlp = Mlp(features, 4 * features, options=options, rngs=rngs)
        self.drop: nnx.Dropout | None = None

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """(B, N, C) -> (B, N, C); no token looks at another image's, so `mask` changes nothing."""
        return self.attend(x)[0]

    def attend(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The same, and who looked where: (B, heads, N, N) float32."""
        y, attention = self.attn.attend(self.norm1(x))
        x = x + self._kept(y)
        return x + self._kept(self.mlp(self.norm2(x))), attention

    def _kept(self, y: jax.Array) -> jax.Array:
        # Stochastic depth draws for an image, and takes its images to have two axes.
        return y if self.drop is None else self.drop(y[:, None])[:, 0]
