"""BM3D in JAX: dense and with static shapes, for batches of images on CPU, GPU or TPU.

The algorithm is that of `numba_backend`; what differs is how the work is laid out:

* Block matching goes displacement by displacement: the squared difference of the image and its shifted self,
  summed over blocks by doubling (three additions an axis; a cumulative sum would cancel in float32), is the
  distance of every reference block to its candidate at that displacement. `top_k` then finds the nearest.
* Groups are gathered, transformed by matrix products, shrunk and scattered back in chunks. The variance of
  their coefficients comes from the covariance of all pairs of blocks, summed up pair by pair of ever larger
  halves as the Haar transform goes.
* Reference rows are taken in bands, so that memory grows with the image only by a few arrays of its own size.

Two backends round differently, and the algorithm has decisions in it. In the first stage they fall alike: its
distances are whole numbers (`Stage.grid`), so that of candidates that are equally near, of which 8-bit images
have many, both take the same. What is left is a coefficient within rounding of the hard threshold, or two blocks
of the basic estimate that are equally near but for rounding; `benchmarks/bm3d_jax.py` prints how far the results
lie apart.

Image sizes are data, not shapes: an image is padded to a bucket and says how much of it is real, so that a
few compilations serve all images and images of several sizes share a batch.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from data_prep.denoise.bm3d.profiles import Profile, Stage
from data_prep.denoise.bm3d.transforms import block_transform, haar_matrix, kaiser_window, overlap_correlation

_REFERENCES_PER_BAND = 8192  # times 1521 distances of 4 bytes in profile np: 50 MB
_NUMBERS_PER_CHUNK = 1 << 23  # of the largest array in filtering, 32 MB

# TPUs and recent GPUs multiply float32 matrices in lower precision unless told not to.
_dot = partial(jnp.einsum, precision=lax.Precision.HIGHEST)


def denoise(z: np.ndarray, profile: Profile) -> np.ndarray:
    """Denoises one image of noise of standard deviation 1 on JAX's default device.

    Args:
        z: float32 (height, width), the sides a block plus multiples of both stages' steps.
        profile: the parameters.

    Returns:
        float32 (height, width).
    """
    return denoise_batch([z], profile)[0]


def denoise_batch(images: Sequence[np.ndarray], profile: Profile) -> list[np.ndarray]:
    """Denoises images, of several sizes if need be, together: one compiled program over the whole batch.

    Args:
        images: float32 (height, width) each, noise of standard deviation 1, the sides a block plus multiples
            of both stages' steps.
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
        size: int32 (2,), height and width of that corner, each a block plus a multiple of both stages' steps.
        profile: the parameters; static.

    Returns:
        float32 (H, W), zero outside the corner.
    """
    basic = _stage(z, z, size, profile.hard, partial(_hard_threshold, threshold=profile.lambda_3d))
    return _stage(z, basic, size, profile.wiener, partial(_wiener, mu2=profile.mu2))


@partial(jax.jit, static_argnames="profile")
def denoise_padded_batch(z: Array, size: Array, *, profile: Profile) -> Array:
    """`denoise_padded` over a leading batch axis: z (n, H, W), size (n, 2)."""
    return jax.vmap(partial(denoise_padded, profile=profile))(z, size)


# (noisy spectrum, guide spectrum, noise variance of every coefficient), each (groups, group size, pixels of a
# block) -> shrunk spectrum, noise variance left in it (groups,).
Shrink = Callable[[Array, Array, Array], tuple[Array, Array]]


def _stage(noisy: Array, guide: Array, size: Array, stage: Stage, shrink: Shrink) -> Array:
    """One stage: groups are matched on `guide`, both images' groups are transformed, `noisy`'s is shrunk."""
    height, width = noisy.shape
    block, step = stage.block_size, stage.step
    columns = (width - block) // step + 1
    all_rows = (height - block) // step + 1
    rows = min(all_rows, max(1, _REFERENCES_PER_BAND // columns))
    bands = -(-all_rows // rows)
    reach = stage.search_window // 2
    below = max(0, ((bands * rows - 1) * step + block) - height)
    on_grid = jnp.round(guide * stage.grid) if stage.grid else guide
    wide_guide = jnp.pad(on_grid, ((reach, reach + below), (reach, reach)))
    x = (jnp.arange(columns) * step)[None, :]

    def band(sums: tuple[Array, Array], first: Array) -> tuple[tuple[Array, Array], None]:
        y = ((first * rows + jnp.arange(rows)) * step)[:, None]
        index, count = _match(wide_guide, (y, x), size, stage)
        # What lies in the padding is no reference.
        count = jnp.where((y <= size[0] - block) & (x <= size[1] - block), count, 0)
        corner = jnp.stack(jnp.broadcast_arrays(y, x), axis=-1)[:, :, None]
        corner = corner + jnp.asarray(stage.offsets(), jnp.int32)[index]
        groups = (corner.reshape(-1, *corner.shape[2:]), count.ravel())
        return _filter(sums, noisy, guide, groups, stage, shrink), None

    zero = jnp.zeros((height, width), jnp.float32)
    (numerator, weights), _ = lax.scan(band, (zero, zero), jnp.arange(bands))
    denominator = _spread(weights, kaiser_window(block, stage.kaiser_beta))
    return jnp.where(denominator > 0, numerator / jnp.where(denominator > 0, denominator, 1), 0)


def _match(guide: Array, at: tuple[Array, Array], size: Array, stage: Stage) -> tuple[Array, Array]:
    """The nearest blocks of every reference block of a band (paper, eqs. 6 and 7).

    Args:
        guide: the image on the stage's grid, with `search_window // 2` pixels of padding around it, more below
            where bands need it.
        at: y (rows, 1) and x (1, columns) of the references.
        size: height and width of the image.
        stage: the parameters.

    Returns:
        (rows, columns, group) the matches' indices into the stage's offsets, nearest first, and (rows, columns)
        how many of them are near enough.
    """
    y, x = at
    reach, block, step = stage.search_window // 2, stage.block_size, stage.step
    pixels = ((len(y) - 1) * step + block, (x.shape[1] - 1) * step + block)
    here = lax.dynamic_slice(guide, (y[0, 0] + reach, reach), pixels)

    def distances(offset: Array) -> Array:
        dy, dx = offset
        there = lax.dynamic_slice(guide, (y[0, 0] + reach + dy, reach + dx), pixels)
        distance = jnp.square(here - there)
        for axis in (0, 1):
            distance = lax.slice_in_dim(_box_sum(distance, block, axis), 0, None, step, axis)
        inside = (y + dy >= 0) & (y + dy <= size[0] - block) & (x + dx >= 0) & (x + dx <= size[1] - block)
        return jnp.where(inside, jnp.maximum(distance, stage.distance_floor * stage.distance_unit), jnp.inf)

    offsets = stage.offsets()
    every = lax.map(distances, jnp.asarray(offsets, jnp.int32))
    # Among equals `top_k` takes the earlier, as the order of the offsets demands.
    nearest, index = lax.top_k(-jnp.moveaxis(every, 0, -1), _longest_group(stage))
    return index, (-nearest < stage.tau_match * stage.distance_unit).sum(axis=-1, dtype=jnp.int32)


def _longest_group(stage: Stage) -> int:
    """The largest power of two that neither the group size nor the number of candidates falls short of."""
    return 1 << (min(stage.group_size, len(stage.offsets())).bit_length() - 1)


def _box_sum(x: Array, size: int, axis: int) -> Array:
    """Sums of `size` neighbours along an axis, by doubling: a tree of additions, no difference of sums."""
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
    groups: tuple[Array, Array],
    stage: Stage,
    shrink: Shrink,
) -> tuple[Array, Array]:
    """Filters groups and adds them to `sums`: weighted pixels, and weights at the blocks' corners.

    `groups` are the corners of their blocks (groups, group size, 2) and how many of these count (groups,).
    """
    block = stage.block_size
    window = kaiser_window(block, stage.kaiser_beta)
    forward, inverse = block_transform(stage.transform_2d, block)
    to_spectrum = jnp.asarray(np.kron(forward, forward), jnp.float32)
    to_pixels = jnp.asarray(np.outer(window, window).reshape(-1, 1) * np.kron(inverse, inverse), jnp.float32)
    # Blocks that lie a block or more apart share nothing.
    shared = jnp.asarray(np.pad(overlap_correlation(forward), ((0, 1), (0, 0))), jnp.float32)

    def chunk(sums: tuple[Array, Array], groups: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
        corner, count = groups
        # A group is cut to a power of two, the length of its Haar transform.
        level = 31 - lax.clz(jnp.maximum(count, 1))
        length = jnp.where(count > 0, 1 << level, 0)[:, None]
        used = jnp.arange(corner.shape[1]) < length
        along = _haar_along(used, length)

        def spectrum(image: Array) -> Array:
            cut = jax.vmap(jax.vmap(lambda at: lax.dynamic_slice(image, at, (block, block))))
            blocks = cut(corner).reshape(*corner.shape[:2], block**2)
            return _dot("gij,gjq->giq", along, _dot("gjp,qp->gjq", blocks, to_spectrum))

        variance = _group_variance(corner, level, shared) * used[:, :, None]
        shrunk, left = shrink(spectrum(noisy), spectrum(guide), variance)
        weight = used / jnp.where(count > 0, left, 1)[:, None]
        pixels = _dot("gjq,pq->gjp", _dot("gij,giq->gjq", along, shrunk), to_pixels) * weight[:, :, None]
        numerator, weights = sums
        at = corner.reshape(-1, 2)
        numerator = lax.scatter_add(numerator, at, pixels.reshape(-1, block, block), _WHOLE_BLOCKS)
        return (numerator, weights.at[at[:, 0], at[:, 1]].add(weight.ravel())), None

    number, group_size = groups[0].shape[:2]
    size = min(number, max(1, _NUMBERS_PER_CHUNK // (group_size * block) ** 2))
    chunks = -(-number // size)

    def chunked(a: Array) -> Array:
        padding = [(0, chunks * size - number)] + [(0, 0)] * (a.ndim - 1)
        return jnp.pad(a, padding).reshape(chunks, size, *a.shape[1:])

    sums, _ = lax.scan(chunk, sums, jax.tree.map(chunked, groups))
    return sums


def _haar_along(used: Array, length: Array) -> Array:
    """The Haar matrix of each group's own length, in the corner of a square of the longest's size.

    Row 0 is the mean; row i + h, h a power of two and i a multiple of 2h, is the difference of the halves of
    [i, i + 2h): the same row for every length that holds it.

    Args:
        used: (groups, group size), true for the blocks within the group's length.
        length: (groups, 1), a power of two, or 0 for no group.

    Returns:
        float32 (groups, group size, group size), zero outside the corner.
    """
    size = used.shape[1]
    matrix = np.zeros((size, size))
    for row, values in enumerate(haar_matrix(size)[1:], 1):
        differences = 1 << (row.bit_length() - 1)
        h = size // differences // 2
        matrix[(row - differences) * 2 * h + h] = values
    mean = used / jnp.sqrt(jnp.maximum(length, 1).astype(jnp.float32))
    return (jnp.asarray(matrix, jnp.float32) * used[:, :, None]).at[:, 0].set(mean)


def _group_variance(corner: Array, level: Array, shared: Array) -> Array:
    """The noise variance of every coefficient of a group, whose overlapping blocks share noise.

    var[j, k] = sum_ab H[j, a] H[j, b] rho_k(a - b) (Makinen, Azzari, Foi, IEEE TIP 29, 2020, section III).
    With c(A, B) the sum of rho over the pairs of a block of A and one of B, the difference of two halves A and
    B of h blocks has (c(A, A) - 2 c(A, B) + c(B, B)) / 2h, and the mean of n blocks c / n.

    Args:
        corner: int32 (groups, group size, 2), where the blocks lie.
        level: int32 (groups,), the logarithm of the group's length.
        shared: (block + 1, block), the noise that 1-D coefficients share by distance.

    Returns:
        float32 (groups, group size, pixels of a block), rows as of `_haar_along`.
    """
    groups, size = corner.shape[:2]
    apart = jnp.minimum(jnp.abs(corner[:, :, None] - corner[:, None]), len(shared) - 1)
    rows, columns = shared[apart[..., 0]], shared[apart[..., 1]]
    covariance = (rows[..., :, None] * columns[..., None, :]).reshape(groups, size, size, -1)
    variance = jnp.zeros((groups, size, covariance.shape[-1]), jnp.float32)
    mean = covariance[:, 0, 0]
    h = 1
    while h < size:
        halves = covariance.reshape(groups, size // h // 2, 2, size // h // 2, 2, -1)
        pair = jnp.moveaxis(jnp.diagonal(halves, axis1=1, axis2=3), -1, 1)
        difference = pair[:, :, 0, 0] - 2 * pair[:, :, 0, 1] + pair[:, :, 1, 1]
        variance = variance.at[:, h :: 2 * h].set(difference / (2 * h))
        covariance = halves.sum(axis=(2, 4))
        h *= 2
        mean = jnp.where((level >= h.bit_length() - 1)[:, None], covariance[:, 0, 0] / h, mean)
    return variance.at[:, 0].set(mean)


_WHOLE_BLOCKS = lax.ScatterDimensionNumbers(
    update_window_dims=(1, 2), inserted_window_dims=(), scatter_dims_to_operand_dims=(0, 1)
)


def _mean_of_group(spectrum: Array) -> Array:
    """Marks the coefficient that holds a group's mean: it is never shrunk."""
    return jnp.zeros(spectrum.shape[1:], bool).at[0, 0].set(True)


def _hard_threshold(noisy: Array, _: Array, variance: Array, *, threshold: float) -> tuple[Array, Array]:
    """Hard thresholding (paper, eq. 8); the variance left is eq. 10's count where blocks do not overlap."""
    keep = (jnp.square(noisy) >= jnp.float32(threshold) ** 2 * variance) | _mean_of_group(noisy)
    return jnp.where(keep, noisy, 0), jnp.where(keep, variance, 0).sum(axis=(1, 2))


def _wiener(noisy: Array, guide: Array, variance: Array, *, mu2: float) -> tuple[Array, Array]:
    """Empirical Wiener shrinkage (paper, eq. 9); the variance left is eq. 11's squared norm of the gain."""
    power = jnp.square(guide)
    total = power + mu2 * variance
    gain = jnp.where(_mean_of_group(noisy), 1.0, power / jnp.where(total > 0, total, 1))
    return gain * noisy, (jnp.square(gain) * variance).sum(axis=(1, 2))


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
