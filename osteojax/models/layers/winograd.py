"""Winograd's minimal filtering for 3x3 convolutions at stride 1: F(4x4, 3x3) of Lavin and Gray 2016.

arXiv:1509.09308, section 4.1 and 4.3. A 4x4 tile of the output comes from a 6x6 tile d of the input by

    Y = A^T [(G k G^T) * (B^T d B)] A

with 36 multiplications in place of 144. Summed over the input channels the middle is one matrix product for each of
the 36 positions. The transforms of the images are additions of shifted images, first along rows, then along columns;
so that what they write is still in the processor's cache when the product reads it, large images go one row of tiles
after another.

The transforms' coefficients reach 8, which costs about one decimal digit against the direct sum: 1e-5 of the output's
scale in float32 at 512 channels.
"""

from collections.abc import Sequence
from typing import cast

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from osteojax.models.layers.padding import Padding, pad

TILE = 4
"""Side of an output tile."""
WINDOW = TILE + 2
"""Side of the input tile that it needs."""

_BT = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    np.float32,
)
_G = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
    np.float32,
)
_AT = np.array(
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]], np.float32
)
# The kernel's transform, both axes at once, as one product: G k G^T over the flattened kernel is kron(G, G) k.
# Additions would be slow for the input's gradient, whose transposed kernel they would read against the grain.
_KERNEL = np.kron(_G, _G)


def convolve(x: Array, kernel: Array, padding: Padding) -> Array:
    """x (N, H, W, C) convolved with kernel (3, 3, C, O) at stride 1."""
    height, width = (x.shape[1 + d] + sum(padding[d]) - 2 for d in range(2))
    rows, columns = -(-height // TILE), -(-width // TILE)
    x = _pad_to_tiles(x, padding, rows, columns)
    kernels = (jnp.asarray(_KERNEL, x.dtype) @ kernel.reshape(9, -1)).reshape(WINDOW**2, *kernel.shape[2:])
    strip = _strip_rows(kernel.shape, rows)

    def write_strip(index: Array, y: Array) -> Array:
        windows = lax.dynamic_slice_in_dim(x, TILE * strip * index, TILE * strip + 2, axis=1)
        windows = _transformed_tiles(_BT, windows, strip, columns)
        products = lax.dot_general(windows, kernels, (((2,), (1,)), ((0,), (0,))))
        products = products.reshape(WINDOW, WINDOW, x.shape[0], strip, columns, kernel.shape[3])
        pixel_rows = jnp.stack(_combine(_AT, list(products)), axis=3)
        pixels = jnp.stack(_combine(_AT, list(pixel_rows)), axis=4)
        pixels = pixels.reshape(x.shape[0], TILE * strip, TILE * columns, kernel.shape[3])
        return lax.dynamic_update_slice_in_dim(y, pixels, TILE * strip * index, axis=1)

    y = jnp.zeros((x.shape[0], TILE * rows, TILE * columns, kernel.shape[3]), x.dtype)
    return lax.fori_loop(0, rows // strip, write_strip, y)[:, :height, :width]


def kernel_gradient(x: Array, dy: Array, padding: Padding) -> Array:
    """The gradient (3, 3, C, O) of `convolve`'s kernel, from the output's gradient dy (N, H', W', O)."""
    rows, columns = (-(-side // TILE) for side in dy.shape[1:3])
    x = _pad_to_tiles(x, padding, rows, columns)
    dy = pad(dy, ((0, TILE * rows - dy.shape[1]), (0, TILE * columns - dy.shape[2])))
    shape = (3, 3, x.shape[3], dy.shape[3])
    strip = _strip_rows(shape, rows)

    def add_strip(index: Array, total: Array) -> Array:
        windows = lax.dynamic_slice_in_dim(x, TILE * strip * index, TILE * strip + 2, axis=1)
        windows = _transformed_tiles(_BT, windows, strip, columns)
        d_products = lax.dynamic_slice_in_dim(dy, TILE * strip * index, TILE * strip, axis=1)
        d_products = _transformed_tiles(_AT.T, d_products, strip, columns)
        return total + lax.dot_general(windows, d_products, (((1,), (1,)), ((0,), (0,))))

    total = lax.fori_loop(0, rows // strip, add_strip, jnp.zeros((WINDOW**2, *shape[2:]), x.dtype))
    return (jnp.asarray(_KERNEL.T, x.dtype) @ total.reshape(WINDOW**2, -1)).reshape(shape)


def _strip_rows(kernel: Sequence[int], rows: int) -> int:
    """Rows of tiles at once: one where the transformed kernel, read again for each, is small; else all."""
    return 1 if kernel[2] * kernel[3] <= 128 * 128 else rows


def _pad_to_tiles(x: Array, padding: Padding, rows: int, columns: int) -> Array:
    (top, _), (left, _) = padding
    height, width = TILE * rows + 2, TILE * columns + 2
    return pad(x, ((top, height - x.shape[1] - top), (left, width - x.shape[2] - left)))


def _transformed_tiles(matrix: np.ndarray, x: Array, rows: int, columns: int) -> Array:
    """M d M^T of the tiles d of x (N, H, W, C), one at each fourth pixel: (36, N * rows * columns, C)."""
    size = matrix.shape[1]
    x = jnp.stack(_combine(matrix, [x[:, i : i + TILE * (rows - 1) + 1 : TILE] for i in range(size)]))
    tiles = [x[:, :, :, j : j + TILE * (columns - 1) + 1 : TILE] for j in range(size)]
    return jnp.stack(_combine(matrix, tiles), axis=1).reshape(WINDOW**2, -1, x.shape[-1])


def _combine(matrix: np.ndarray, parts: Sequence[Array]) -> list[Array]:
    """For each row of the matrix the sum of the parts weighted by it, as additions: most weights are 0 or 1."""
    sums = [sum(float(w) * part for w, part in zip(row, parts, strict=True) if w) for row in matrix]
    return cast(list[Array], sums)  # no row is all zeros, so that none is the number 0
