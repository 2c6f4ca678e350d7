"""Winograd's minimal filtering for 3x3 convolutions at stride 1: F(4x4, 3x3) of Lavin and Gray 2016.

arXiv:1509.09308, section 4.1 and 4.3. A 4x4 tile of the output comes from a 6x6 tile d of the input by

    Y = A^T [(G k G^T) * (B^T d B)] A

with 36 multiplications in place of 144. Summed over the input channels the middle is one matrix product for each of
the 36 positions, and the three transforms are themselves matrix products with the 36 positions as an axis: all
of the work is done by the platform's matrix product.

The transforms' coefficients reach 8, which costs about one decimal digit against the direct sum: 1e-5 of the output's
scale in float32 at 512 channels.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from osteojax.models.padding import Padding, pad

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
# Both axes at once: M d M^T over the flattened tile is kron(M, M) d.
_INPUT, _KERNEL, _OUTPUT = np.kron(_BT, _BT), np.kron(_G, _G), np.kron(_AT, _AT)


def convolve(x: Array, kernel: Array, padding: Padding) -> Array:
    """x (N, H, W, C) convolved with kernel (3, 3, C, O) at stride 1."""
    height, width = (x.shape[1 + d] + sum(padding[d]) - 2 for d in range(2))
    windows, (rows, columns) = _input_tiles(x, padding, height, width)
    kernels = _transform(_KERNEL, kernel.reshape(9, -1)).reshape(WINDOW**2, *kernel.shape[2:])
    products = lax.dot_general(windows, kernels, (((2,), (1,)), ((0,), (0,))))
    tiles = _transform(_OUTPUT, products.reshape(WINDOW**2, -1))
    tiles = tiles.reshape(TILE, TILE, x.shape[0], rows, columns, kernel.shape[3])
    y = tiles.transpose(2, 3, 0, 4, 1, 5).reshape(x.shape[0], TILE * rows, TILE * columns, kernel.shape[3])
    return y[:, :height, :width]


def kernel_gradient(x: Array, dy: Array, padding: Padding) -> Array:
    """The gradient (3, 3, C, O) of `convolve`'s kernel, from the output's gradient dy (N, H', W', O)."""
    windows, (rows, columns) = _input_tiles(x, padding, *dy.shape[1:3])
    surplus = ((0, TILE * rows - dy.shape[1]), (0, TILE * columns - dy.shape[2]))
    dy = pad(dy, surplus)
    tiles = jnp.stack([dy[:, i::TILE, j::TILE] for i in range(TILE) for j in range(TILE)])
    d_products = _transform(_OUTPUT.T, tiles.reshape(TILE**2, -1)).reshape(WINDOW**2, -1, dy.shape[3])
    d_kernels = lax.dot_general(windows, d_products, (((1,), (1,)), ((0,), (0,))))
    d_kernel = _transform(_KERNEL.T, d_kernels.reshape(WINDOW**2, -1))
    return d_kernel.reshape(3, 3, x.shape[3], dy.shape[3])


def _input_tiles(x: Array, padding: Padding, height: int, width: int) -> tuple[Array, tuple[int, int]]:
    """The transformed tiles (36, N * rows * columns, C), and how many rows and columns of tiles there are."""
    rows, columns = -(-height // TILE), -(-width // TILE)
    (top, _), (left, _) = padding
    x = pad(
        x,
        ((top, TILE * rows + 2 - x.shape[1] - top), (left, TILE * columns + 2 - x.shape[2] - left)),
    )
    windows = jnp.stack(
        [
            x[:, i : i + TILE * (rows - 1) + 1 : TILE, j : j + TILE * (columns - 1) + 1 : TILE]
            for i in range(WINDOW)
            for j in range(WINDOW)
        ]
    )
    transformed = _transform(_INPUT, windows.reshape(WINDOW**2, -1))
    return transformed.reshape(WINDOW**2, -1, x.shape[3]), (rows, columns)


def _transform(matrix: np.ndarray, tiles: Array) -> Array:
    return jnp.asarray(matrix, tiles.dtype) @ tiles
