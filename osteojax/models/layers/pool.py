"""Pooling over the two image axes of (B, H, W, C), with PyTorch's conventions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from osteojax.models.layers.padding import pad
from osteojax.models.layers.platform import by_platform


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def max_pool(x: jax.Array, size: int, stride: int, padding: int = 0) -> jax.Array:
    """Maximum over size x size windows; the padding never wins; a last incomplete window is dropped.

    The gradient goes to a window's first maximum, row by row, as in PyTorch. On CPU both directions are written as
    element-wise operations on shifted images: XLA's own gradient takes thirty times as long there.
    """
    native = functools.partial(_max_pool_native, size=size, stride=stride, padding=padding)

    def shifted(x: jax.Array) -> jax.Array:
        return functools.reduce(jnp.maximum, _windows(x, size, stride, padding))

    def replicated(x: jax.Array) -> jax.Array:
        return functools.reduce(jnp.maximum, _windows(_replicate_edge(x, padding), size, stride, 0))

    return by_platform(x, cpu=shifted, default=native, portable=replicated)


def _max_pool_fwd(x: jax.Array, size: int, stride: int, padding: int) -> tuple[jax.Array, jax.Array]:
    return max_pool(x, size, stride, padding), x


def _max_pool_bwd(size: int, stride: int, padding: int, x: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
    def native(x: jax.Array, dy: jax.Array) -> jax.Array:
        (dx,) = jax.vjp(lambda x: _max_pool_native(x, size, stride, padding), x)[1](dy)
        return dx

    shifted = functools.partial(_max_pool_gradient, size=size, stride=stride, padding=padding)
    return (jax.lax.platform_dependent(x, dy, cpu=shifted, default=native),)


max_pool.defvjp(_max_pool_fwd, _max_pool_bwd)


def _max_pool_native(x: jax.Array, size: int, stride: int, padding: int) -> jax.Array:
    around = (padding, padding)
    return jax.lax.reduce_window(
        x,
        -jnp.inf,
        jax.lax.max,
        (1, size, size, 1),
        (1, stride, stride, 1),
        ((0, 0), around, around, (0, 0)),
    )


def _replicate_edge(x: jax.Array, width: int) -> jax.Array:
    """x with its outermost rows and columns repeated: as padding of less than a window's size they never win."""
    x = jnp.concatenate([x[:, :1]] * width + [x] + [x[:, -1:]] * width, 1)
    return jnp.concatenate([x[:, :, :1]] * width + [x] + [x[:, :, -1:]] * width, 2)


def _windows(x: jax.Array, size: int, stride: int, padding: int) -> list[jax.Array]:
    """For each place in a window, row by row, the pixels that stand there: (B, H', W', C) each."""
    height, width = ((side + 2 * padding - size) // stride + 1 for side in x.shape[1:3])
    x = pad(x, ((padding, padding), (padding, padding)), -jnp.inf)
    return [
        x[:, i : i + (height - 1) * stride + 1 : stride, j : j + (width - 1) * stride + 1 : stride]
        for i in range(size)
        for j in range(size)
    ]


def _max_pool_gradient(x: jax.Array, dy: jax.Array, *, size: int, stride: int, padding: int) -> jax.Array:
    first, *others = _windows(x, size, stride, padding)
    highest, winner = first, jnp.zeros(dy.shape, jnp.int8)
    for place, window in enumerate(others, start=1):
        higher = window > highest
        highest, winner = jnp.where(higher, window, highest), jnp.where(higher, jnp.int8(place), winner)
    # Rows p, p + stride, ... of the padded image stand only at the places p, p + stride, ... of windows.
    cells = tuple(-(-(side + padding) // stride) for side in x.shape[1:3])

    def phase(p: int, q: int) -> jax.Array:
        total = jnp.zeros((x.shape[0], *cells, x.shape[3]), dy.dtype)
        for i in range(p, size, stride):
            for j in range(q, size, stride):
                won = jnp.where(winner == i * size + j, dy, 0)
                rows, columns = (
                    (k // stride, c - d - k // stride)
                    for k, c, d in zip((i, j), cells, dy.shape[1:3], strict=True)
                )
                total += pad(won, (rows, columns))
        return total

    dx = jnp.stack([jnp.stack([phase(p, q) for q in range(stride)], 3) for p in range(stride)], 2)
    dx = dx.reshape(x.shape[0], cells[0] * stride, cells[1] * stride, x.shape[3])
    return dx[:, padding : padding + x.shape[1], padding : padding + x.shape[2]]


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
