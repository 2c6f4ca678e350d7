"""Pooling over the two image axes of (B, H, W, C), with PyTorch's conventions."""

import jax
import jax.numpy as jnp
import numpy as np


def max_pool(x: jax.Array, size: int, stride: int, padding: int = 0) -> jax.Array:
    """Maximum over size x size windows; the padding never wins; a last incomplete window is dropped."""
    pad = (padding, padding)
    return jax.lax.reduce_window(
        x,
        -jnp.inf,
        jax.lax.max,
        (1, size, size, 1),
        (1, stride, stride, 1),
        ((0, 0), pad, pad, (0, 0)),
    )


def avg_pool2(x: jax.Array) -> jax.Array:
    """Mean over 2x2 windows at stride 2; an odd last row or column is dropped."""
    batch, height, width, features = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return x.reshape(batch, height // 2, 2, width // 2, 2, features).mean((2, 4))


def global_avg_pool(x: jax.Array) -> jax.Array:
    """(B, H, W, C) -> (B, C) float32, accumulated in float32."""
    return x.mean((1, 2), dtype=jnp.float32)


def _bin_weights(size: int, bins: int) -> np.ndarray:
    """(bins, size) averaging matrix: bin i covers floor(i size / bins) up to ceil((i + 1) size / bins)."""
    weights = np.zeros((bins, size), np.float32)
    for i in range(bins):
        first, last = i * size // bins, -(-(i + 1) * size // bins)
        weights[i, first:last] = 1 / (last - first)
    return weights


def adaptive_avg_pool(x: jax.Array, bins: int) -> jax.Array:
    """(B, H, W, C) -> (B, bins, bins, C): `torch.nn.AdaptiveAvgPool2d`, any input size."""
    if x.shape[1:3] == (bins, bins):
        return x
    rows = jnp.asarray(_bin_weights(x.shape[1], bins), x.dtype)
    columns = jnp.asarray(_bin_weights(x.shape[2], bins), x.dtype)
    return jnp.einsum("ih,jw,bhwc->bijc", rows, columns, x)
