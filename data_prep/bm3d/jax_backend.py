"""BM3D in JAX: dense and with static shapes, for batches of images on CPU, GPU or TPU.

The algorithm is that of `numba_backend`; what differs is how the work is laid out:

* Block matching goes displacement by displacement: the squared difference of the image and its shifted self,
  summed over blocks by doubling (three additions an axis; a cumulative sum would cancel in float32), is the
  distance of every reference block to its candidate at that displacement. `top_k` then finds the nearest.
* Groups are gathered, transformed by matrix products, shrunk and scattered back in chunks.
* Reference rows are taken in bands, so that memory grows with the image only by a few arrays of its own size.

Image sizes are data, not shapes: an image is padded to a bucket and says how much of it is real, so that a
few compilations serve all images and images of several sizes share a batch.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from data_prep.bm3d.profiles import Profile, Stage
from data_prep.bm3d.transforms import block_transform, haar_matrix, kaiser_window

_REFERENCES_PER_BAND = 8192  # times 1521 distances of 4 bytes in profile np: 50 MB
_REFERENCES_PER_CHUNK = 512

# TPUs and recent GPUs multiply float32 matrices in lower precision unless told not to.
_dot = partial(jnp.einsum, precision=lax.Precision.HIGHEST)


def denoise(z: np.ndarray, profile: Profile) -> np.ndarray:
    """Denoises one image of noise of standard deviation 1 on JAX's default device.

    Args:
      z: float32 (height, width), no side shorter than a block.
      profile: the parameters.

    Returns:
      float32 (height, width).
    """
    return denoise_batch([z], profile)[0]


def denoise_batch(images: Sequence[np.ndarray], profile: Profile) -> list[np.ndarray]:
    """Denoises images, of several sizes if need be, together: one compiled program over the whole batch.

    Args:
      images: float32 (height, width) each, noise of standard deviation 1, no side shorter than a block.
      profile: the parameters.

    Returns:
      float32 arrays of the images' shapes, in their order.
    """
    shape = tuple(bucket(max(image.shape[axis] for image in images)) for axis in (0, 1))
    batch = np.zeros((bucket(len(images)), *shape), np.float32)
    # What fills the batch up counts as one block of zeros.
    sizes = np.full((len(batch), 2), max(profile.hard.block_size, profile.wiener.block_size), np.int32)
    for slot, size, image in zip(batch, sizes, images, strict=False):
        slot[: image.shape[0], : image.shape[1]] = image
        size[:] = image.shape
    clean = np.asarray(denoise_padded_batch(batch, sizes, profile=profile))
    return [c[: i.shape[0], : i.shape[1]] for c, i in zip(clean, images, strict=False)]


def bucket(n: int) -> int:
    """The smallest of 1 to 8, 10, 12, 14, 16, 20, 24, ... that is at least n: four sizes an octave."""
    quantum = 1 << max(0, (n - 1).bit_length() - 3)
    return -(-n // quantum) * quantum


def denoise_padded(z: Array, size: Array, *, profile: Profile) -> Array:
    """Both stages of BM3D as a pure JAX function, to be jitted and vmapped at will.

    Args:
      z: float32 (H, W), noise of standard deviation 1; the image is its upper left corner, the rest ignored.
      size: int32 (2,), height and width of that corner, each at least the block size.
      profile: the parameters; static.

    Returns:
      float32 (H, W), zero outside the corner.
    """
    basic = _stage(z, z, size, profile.hard, partial(_hard_threshold, threshold=profile.lambda_3d))
    return _stage(z, basic, size, profile.wiener, _wiener)


@partial(jax.jit, static_argnames="profile")
def denoise_padded_batch(z: Array, size: Array, *, profile: Profile) -> Array:
    """`denoise_padded` over a leading batch axis: z (n, H, W), size (n, 2)."""
    return jax.vmap(partial(denoise_padded, profile=profile))(z, size)


# (noisy spectrum, guide spectrum) of groups (n, group_size, pixels of a block) -> shrunk spectrum, energy
# (n,): a group's weight is the inverse of its energy.
Shrink = Callable[[Array, Array], tuple[Array, Array]]


def _stage(noisy: Array, guide: Array, size: Array, stage: Stage, shrink: Shrink) -> Array:
    """One stage: groups are matched on `guide`, both images' groups are transformed, `noisy`'s is shrunk."""
    height, width = noisy.shape
    block, step = stage.block_size, stage.step
    # Regular reference rows and columns from zero; each band and each row has room for the last one as well.
    columns = -(-max(width - block + 1, 1) // step)
    all_rows = -(-max(height - block + 1, 1) // step)
    rows = min(all_rows, max(1, _REFERENCES_PER_BAND // (columns + 1)))
    bands = -(-all_rows // rows)
    # Room for whole bands, and everywhere for the displacement.
    reach = stage.search_window // 2
    below = bands * rows * step + block - 1 - height
    right = columns * step + block - 1 - width
    ample = ((reach, reach + max(below, 0)), (reach, reach + max(right, 0)))
    wide_guide = jnp.pad(guide, ample)

    def band(sums: tuple[Array, Array], first: Array) -> tuple[tuple[Array, Array], None]:
        y, x, real = _references(first * rows * step, rows, columns, size, stage)
        matches = _match(wide_guide, first * rows * step, (y, x), size, stage)
        return _filter(sums, noisy, guide, (y, x, real), matches, stage, shrink), None

    zero = jnp.zeros((height, width), jnp.float32)
    (numerator, weights), _ = lax.scan(band, (zero, zero), jnp.arange(bands))
    denominator = _spread(weights, kaiser_window(block, stage.kaiser_beta))
    return jnp.where(denominator > 0, numerator / jnp.where(denominator > 0, denominator, 1), 0)


def _references(top: Array, rows: int, columns: int, size: Array, stage: Stage) -> tuple[Array, Array, Array]:
    """Positions of a band's reference blocks, y (rows + 1, 1) and x (1, columns + 1), and which are real.

    The last block of the image is a reference row (column) of its own where the step does not meet it.
    """

    def axis(start: Array, count: int, length: Array) -> tuple[Array, Array]:
        last = length - stage.block_size
        regular = start + jnp.arange(count) * stage.step
        inside = (last >= start) & (last < start + count * stage.step) & (last % stage.step != 0)
        return jnp.append(regular, last), jnp.append(regular <= last, inside)

    y, y_real = axis(top, rows, size[0])
    x, x_real = axis(jnp.zeros_like(top), columns, size[1])
    return y[:, None], x[None, :], y_real[:, None] & x_real[None, :]


def _match(
    guide: Array, top: Array, at: tuple[Array, Array], size: Array, stage: Stage
) -> tuple[Array, Array]:
    """The nearest blocks of every reference block of a band (paper, eqs. 6 and 7).

    Args:
      guide: the image with `search_window // 2` pixels of padding at its top and left and enough elsewhere.
      top: the band's first row of pixels.
      at: y (rows + 1, 1) and x (1, columns + 1) of the references.
      size: height and width of the image.
      stage: the parameters.

    Returns:
      For every reference of the band, row by row: (references, group) the matches' indices into the stage's
      offsets, nearest first, and (references,) how many of them are near enough.
    """
    y, x = at
    reach, block, step = stage.search_window // 2, stage.block_size, stage.step
    pixels = ((len(y) - 1) * step + block - 1, (x.shape[1] - 1) * step + block - 1)
    here = lax.dynamic_slice(guide, (top + reach, reach), pixels)
    # The extra reference is the image's last block if that is in this band, else any: it is not real then.
    last = size - block - jnp.stack([top, jnp.zeros_like(top)])

    def distances(offset: Array) -> Array:
        dy, dx = offset
        there = lax.dynamic_slice(guide, (top + reach + dy, reach + dx), pixels)
        distance = _rounded(jnp.square(here - there))
        for axis in (0, 1):
            distance = _box_sum(distance, block, axis)
            regular = lax.slice_in_dim(distance, 0, None, step, axis)
            extra = lax.dynamic_slice_in_dim(distance, last[axis], 1, axis)
            distance = jnp.concatenate([regular, extra], axis)
        inside = (y + dy >= 0) & (y + dy <= size[0] - block) & (x + dx >= 0) & (x + dx <= size[1] - block)
        return jnp.where(inside, distance, jnp.inf)

    offsets = stage.offsets()
    every = lax.map(distances, jnp.asarray(offsets, jnp.int32)).reshape(len(offsets), -1)
    # Among equals `top_k` takes the earlier, as the order of the offsets demands.
    nearest, index = lax.top_k(-every.T, _longest_group(stage))
    return index, (-nearest < stage.tau_match * block**2).sum(axis=1, dtype=jnp.int32)


def _longest_group(stage: Stage) -> int:
    """The largest power of two that neither the group size nor the number of candidates falls short of."""
    return 1 << (min(stage.group_size, len(stage.offsets())).bit_length() - 1)


def _rounded(x: Array) -> Array:
    """x >= 0, as rounded to float32: keeps compilers from fusing a product with the sum that follows it.

    With integer-valued pixels many candidates are equally near but for rounding; only additions in the same
    order with the same rounding as in `numba_backend` settle these ties alike.
    """
    bits = lax.bitcast_convert_type(x, jnp.int32)
    return lax.bitcast_convert_type(jnp.maximum(bits, 0), jnp.float32)


def _box_sum(x: Array, size: int, axis: int) -> Array:
    """Sums of `size` neighbours along an axis, by doubling: a tree of additions, in pairs as in numba's."""
    if size == 1:
        return x
    half = _box_sum(x, size // 2, axis)
    reach = half.shape[axis] - size // 2
    total = lax.slice_in_dim(half, 0, reach, axis=axis) + lax.slice_in_dim(half, size // 2, None, axis=axis)
    if size % 2:
        odd = lax.slice_in_dim(x, size - 1, None, axis=axis)
        total = lax.slice_in_dim(total, 0, reach - 1, axis=axis) + odd
    return total


def _filter(
    sums: tuple[Array, Array],
    noisy: Array,
    guide: Array,
    references: tuple[Array, Array, Array],
    matches: tuple[Array, Array],
    stage: Stage,
    shrink: Shrink,
) -> tuple[Array, Array]:
    """Filters the groups of a band and adds them to `sums`: weighted pixels, and weights at block corners."""
    index, count = matches
    grid = (references[0].shape[0], references[1].shape[1])
    y, x, real = (jnp.broadcast_to(r, grid).ravel() for r in references)
    # A group is cut to a power of two, the length of its Haar transform.
    level = 31 - lax.clz(jnp.maximum(count, 1))
    used = (jnp.arange(index.shape[1]) < (1 << level)[:, None]) & real[:, None]
    moved = jnp.asarray(stage.offsets(), jnp.int32)[index]
    corner = jnp.stack([y, x], axis=-1)[:, None] + moved

    block = stage.block_size
    window = kaiser_window(block, stage.kaiser_beta)
    forward, inverse = block_transform(stage.transform_2d, block)
    to_spectrum = jnp.asarray(np.kron(forward, forward), jnp.float32)
    to_pixels = jnp.asarray(np.outer(window, window).reshape(-1, 1) * np.kron(inverse, inverse), jnp.float32)
    haar = jnp.asarray(_haar_matrices(index.shape[1]), jnp.float32)

    def chunk(
        sums: tuple[Array, Array], groups: tuple[Array, Array, Array]
    ) -> tuple[tuple[Array, Array], None]:
        corner, level, used = groups
        along = haar[level]

        def spectrum(image: Array) -> Array:
            cut = jax.vmap(jax.vmap(lambda at: lax.dynamic_slice(image, at, (block, block))))
            blocks = cut(corner).reshape(*corner.shape[:2], block**2)
            return _dot("gij,gjq->giq", along, _dot("gjp,qp->gjq", blocks, to_spectrum))

        shrunk, energy = shrink(spectrum(noisy), spectrum(guide))
        weight = used / energy[:, None]
        pixels = _dot("gjq,pq->gjp", _dot("gij,giq->gjq", along, shrunk), to_pixels) * weight[:, :, None]
        numerator, weights = sums
        at = corner.reshape(-1, 2)
        numerator = lax.scatter_add(numerator, at, pixels.reshape(-1, block, block), _WHOLE_BLOCKS)
        return (numerator, weights.at[at[:, 0], at[:, 1]].add(weight.ravel())), None

    size = min(_REFERENCES_PER_CHUNK, len(level))
    chunks = -(-len(level) // size)

    def chunked(a: Array) -> Array:
        padding = [(0, chunks * size - len(a))] + [(0, 0)] * (a.ndim - 1)
        return jnp.pad(a, padding).reshape(chunks, size, *a.shape[1:])

    sums, _ = lax.scan(chunk, sums, (chunked(corner), chunked(level), chunked(used)))
    return sums


_WHOLE_BLOCKS = lax.ScatterDimensionNumbers(
    update_window_dims=(1, 2), inserted_window_dims=(), scatter_dims_to_operand_dims=(0, 1)
)


def _haar_matrices(largest: int) -> np.ndarray:
    """Haar matrices of sizes 1, 2, 4 ... `largest` as (n, largest, largest), each in its square's corner."""
    sizes = [1 << level for level in range(largest.bit_length())]
    return np.stack([np.pad(haar_matrix(n), ((0, largest - n), (0, largest - n))) for n in sizes])


def _mean_of_group(spectrum: Array) -> Array:
    """Marks the coefficient that holds a group's mean: it is never shrunk."""
    return jnp.zeros(spectrum.shape[1:], bool).at[0, 0].set(True)


def _hard_threshold(noisy: Array, _: Array, *, threshold: float) -> tuple[Array, Array]:
    """Hard thresholding (paper, eq. 8) and the number of coefficients kept (eq. 10, sigma being 1)."""
    keep = (jnp.abs(noisy) >= threshold) | _mean_of_group(noisy)
    return jnp.where(keep, noisy, 0), keep.sum(axis=(1, 2), dtype=jnp.float32)


def _wiener(noisy: Array, guide: Array) -> tuple[Array, Array]:
    """Empirical Wiener shrinkage (paper, eqs. 8 and 9 of section III-C) and its squared norm (eq. 11)."""
    power = jnp.square(guide)
    gain = jnp.where(_mean_of_group(noisy), 1.0, power / (power + 1.0))
    return gain * noisy, jnp.square(gain).sum(axis=(1, 2))


def _spread(weights: Array, window: np.ndarray) -> Array:
    """Every block's weight times the window over the block, summed: the denominator of eq. 12."""
    for axis in (0, 1):
        before = [(len(window) - 1, 0) if a == axis else (0, 0) for a in (0, 1)]
        padded = jnp.pad(weights, before)
        shifted = (
            w * lax.slice_in_dim(padded, len(window) - 1 - i, padded.shape[axis] - i, axis=axis)
            for i, w in enumerate(window.astype(np.float32))
        )
        weights = sum(shifted)
    return weights
