"""CRC-32 of arrays that are spread over devices and hosts.

A CRC is the remainder of the message as a polynomial over GF(2), up to a constant, and therefore linear: the checksum
of a whole array is the exclusive or of what its parts contribute, each moved to its place by a multiplication with a
power of x (as `crc32_combine` of zlib does for two parts). So every process works on what it holds, whatever the
layout, and the sum is `zlib.crc32` of the array's bytes in C order, to the bit.
"""

import functools
import math
import zlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

# The polynomial of zlib, reflected: bit 31 is the coefficient of x^0.
_POLYNOMIAL = np.uint32(0xEDB88320)
_ONE = np.uint32(1 << 31)


def crc32_of_tree(tree: Any) -> dict[str, int]:
    """Path -> CRC-32 of every array of the tree, of its bytes in C order; all processes get all of them."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    parts = np.asarray([_local_part(x) for _, x in leaves], np.uint32)
    if jax.process_count() > 1:
        parts = np.bitwise_xor.reduce(multihost_utils.process_allgather(parts), axis=0)
    return {
        jax.tree_util.keystr(path): int(part ^ _crc_of_zeros(x.nbytes))
        for (path, x), part in zip(leaves, parts, strict=True)
    }


def _local_part(x: jax.Array) -> np.uint32:
    """What the elements that this process holds contribute to the array's CRC, which is affine in its bytes."""
    part = np.uint32(0)
    for shard in x.addressable_shards:
        if shard.replica_id == 0:
            data = np.ascontiguousarray(shard.data)
            part ^= _part(data, x.shape, shard.index)
    return part


def _part(data: np.ndarray, shape: tuple[int, ...], index: tuple[slice, ...]) -> np.uint32:
    """The contribution of a block of an array of this shape; the block lies at `index`."""
    if not data.size:
        return np.uint32(0)
    runs, starts = _runs(data, shape, index)
    length = runs.shape[1]
    total = math.prod(shape) * data.itemsize
    zeros = zlib.crc32(b"\0" * length)
    # Linear part of each run's CRC: without the constant that depends on its length alone.
    linear = np.fromiter((zlib.crc32(run) ^ zeros for run in runs), np.uint32, len(runs))
    behind = total - (starts * data.itemsize + length)
    return np.bitwise_xor.reduce(_multiply(linear, _powers(behind)))


def _runs(
    data: np.ndarray, shape: tuple[int, ...], index: tuple[slice, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """The block's bytes as (runs, bytes), each run contiguous in the whole array, and the elements before each."""
    inner = len(shape)
    while inner > 0 and data.shape[inner - 1] == shape[inner - 1]:
        inner -= 1
    inner = max(inner - 1, 0)  # the last axis that is cut: its part is contiguous with what follows
    outer = data.shape[:inner]
    first = [piece.indices(side)[0] for piece, side in zip(index, shape, strict=True)]
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    start = np.full(outer, sum(f * s for f, s in zip(first, strides, strict=True)), np.int64)
    for axis, side in enumerate(outer):
        along = np.arange(side, dtype=np.int64) * strides[axis]
        start = start + along.reshape(-1, *(1,) * (len(outer) - axis - 1))
    count = math.prod(outer)
    return data.reshape(count, -1).view(np.uint8), start.reshape(-1)


def _multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Products of polynomials modulo the CRC's, element by element, (N,) uint32."""
    product = np.zeros_like(a)
    for bit in _bits():
        product ^= np.where(a & bit, b, np.uint32(0))
        b = (b >> np.uint32(1)) ^ np.where(b & np.uint32(1), _POLYNOMIAL, np.uint32(0))
    return product


def _bits() -> Iterator[np.uint32]:
    return (np.uint32(1 << place) for place in range(31, -1, -1))


def _powers(lengths: np.ndarray) -> np.ndarray:
    """x^(8 n) for each n of (N,) int64: what n further bytes do to a CRC."""
    result = np.full(len(lengths), _ONE, np.uint32)
    for place in range(int(lengths.max(initial=0)).bit_length()):
        further = _multiply(result, np.broadcast_to(_doubled(place), result.shape))
        result = np.where(lengths >> place & 1, further, result)
    return result


@functools.cache
def _doubled(times: int) -> np.ndarray:
    """x^(8 * 2^times), (1,): squared so often, and asked for with every array of every checkpoint."""
    if times == 0:
        return np.full(1, 1 << 23, np.uint32)
    half = _doubled(times - 1)
    return _multiply(half, half)


@functools.cache
def _crc_of_zeros(length: int) -> np.uint32:
    """`zlib.crc32` of so many zero bytes."""
    ones = np.full(1, 0xFFFFFFFF, np.uint32)
    return _multiply(ones, _powers(np.asarray([length])))[0] ^ np.uint32(0xFFFFFFFF)
