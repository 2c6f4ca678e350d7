"""Finds copies that identical pixels do not show: cropped, mirrored, rescaled, squashed or re-encoded.

Two stages. Every image, whole, is compared with every other one, whole and under a few crops, by the
normalised cross-correlation of small band-passed thumbnails: that gives candidates. Each candidate's crop is
then refined by Gauss-Newton, and the pair is a copy if the fine detail correlates after alignment: two
different knees can have the same outline, never the same trabeculae, skin folds and grain.
"""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

Array = NDArray[np.float32]
# A crop: (top, left, height, width) in units of the image that it is cut from.
Box = tuple[float, float, float, float]

# Sides in pixels of what is kept of an image and of what all pairs are compared by.
THUMBNAIL = 128
_COARSE = 32
# Images whose candidates are sought at a time; bounds memory.
_BLOCK = 2048
# Spans of a side: all of it, and 86 % and 74 % of it at the start, in the middle and at the end. Gauss-Newton
# bridges what lies between.
_SPANS = ((0.0, 1.0), *(((1.0 - s) * at, s) for s in (0.86, 0.74) for at in (0.0, 0.5, 1.0)))
# Every pair of spans, and the two halves, because single knees are cut from radiographs of both.
_BOXES: tuple[Box, ...] = (
    *((top, left, height, width) for top, height in _SPANS for left, width in _SPANS),
    *((0.0, 0.0, 1.0, 0.5), (0.0, 0.5, 1.0, 0.5)),
)
# Levels that are aligned one after the other: size of the grid and band, (fine, coarse) standard deviations
# in its pixels; a pair whose correlation after a level is below the last number is given up.
_LEVELS = ((32, 1.25, 4.0, 0.75), (64, 1.0, 4.0, 0.75))
_MAX_ITERATIONS = 12


@dataclasses.dataclass(frozen=True)
class NearDuplicate:
    """A pair of images of which one is a copy of the other or of a part of it.

    Attributes:
        part: index of the image that is the whole copy or the crop.
        whole: index of the image that it was cut from.
        box: (top, left, height, width) of the crop in units of the sides of `whole`, mirrored first
            if `mirrored`.
        mirrored: whether left and right are swapped.
        correlation: normalised cross-correlation of the fine detail after alignment, -1 to 1.
    """

    part: int
    whole: int
    box: Box
    mirrored: bool
    correlation: float


def thumbnail(image: NDArray[np.floating]) -> NDArray[np.uint8]:
    """The image as uint8 (THUMBNAIL, THUMBNAIL): area-averaged, aspect ratio squashed, min-max to 0..255.

    Args:
        image: (height, width), any range; sides smaller than THUMBNAIL are interpolated.
    """
    image = np.asarray(image, np.float32)
    small = _sampling(image.shape[0], THUMBNAIL) @ image @ _sampling(image.shape[1], THUMBNAIL).T
    low, high = float(small.min()), float(small.max())
    return np.rint((small - low) * np.float32(255.0 / max(high - low, 1e-6))).astype(np.uint8)


def find_near_duplicates(
    thumbnails: NDArray[np.uint8],
    *,
    same: Callable[[int, int], bool] = lambda a, b: False,
    candidate: float = 0.5,
    neighbours: int = 5,
    accept: float = 0.9,
) -> list[NearDuplicate]:
    """Finds pairs of which one is a crop, mirror image, rescaled or re-encoded copy of the other.

    Comparing all pairs costs about 100,000 multiply-adds a pair. Rotated copies are not looked for.

    Args:
        thumbnails: (n, THUMBNAIL, THUMBNAIL), of `thumbnail`.
        same: pairs that are known to belong together and need not be looked at.
        candidate: smallest coarse correlation of a pair that is looked at closely.
        neighbours: how many candidates of an image are looked at, the most alike first.
        accept: smallest fine correlation of a pair that counts as a copy; docs/data_audit.md has
            the measurement.

    Returns:
        The pairs found, sorted by index. Pairs that are connected through others already are left out: the list
        joins every group of copies but does not hold all of its pairs.
    """
    if len(thumbnails) < 2:
        return []
    root = list(range(len(thumbnails)))

    def find(item: int) -> int:
        while root[item] != item:
            root[item] = root[root[item]]
            item = root[item]
        return item

    found = []
    for _, part, whole, box, mirrored in sorted(_candidates(thumbnails, candidate, neighbours), reverse=True):
        if find(part) == find(whole) or same(part, whole):
            continue
        pair = _verify(thumbnails, part, whole, box, mirrored)
        if pair is not None and pair.correlation >= accept:
            found.append(pair)
            root[find(part)] = find(whole)
    return sorted(found, key=lambda pair: (pair.part, pair.whole))


def _sampling(source: int, target: int, start: float = 0.0, extent: float = 1.0) -> Array:
    """(target, source) weights that average, or interpolate, the interval [start, start + extent] of a side.

    Each target pixel is a tent as wide as the larger of the two pixels, so that shrinking does not alias.
    """
    step = extent * source / target
    centres = start * source + (np.arange(target) + 0.5) * step - 0.5
    width = max(step, 1.0)
    weights = np.maximum(1.0 - np.abs(np.arange(source) - centres[:, None]) / width, 0.0)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _detail(images: Array, fine: float, coarse: float) -> Array:
    """Band-passed images with local contrast evened out: exposure, window and gamma drop out.

    Args:
        images: (..., n, n).
        fine: standard deviation in pixels of what is smoothed away, 0 for nothing.
        coarse: standard deviation in pixels of what is subtracted.
    """
    lead = (0,) * (images.ndim - 2)
    smooth = gaussian_filter(images, (*lead, fine, fine)) if fine else images
    band = smooth - gaussian_filter(images, (*lead, coarse, coarse))
    energy = gaussian_filter(band * band, (*lead, 1.5 * coarse, 1.5 * coarse))
    # 0.004 is a grey level: flat background is not blown up into texture.
    return band / (np.sqrt(np.maximum(energy, 0.0)) + np.float32(0.004))


def _unit(vectors: Array) -> Array:
    """Rows with mean 0 and norm 1, so that their products are normalised cross-correlations."""
    centred = vectors - vectors.mean(axis=1, keepdims=True)
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), np.float32(1e-6))


def _views(thumbnails: NDArray[np.uint8], box: Box) -> Array:
    """Band-passed float32 (n, _COARSE, _COARSE) of one crop of every thumbnail."""
    rows = _sampling(THUMBNAIL, _COARSE, box[0], box[2]) / np.float32(255.0)
    columns = _sampling(THUMBNAIL, _COARSE, box[1], box[3]).T
    small = np.empty((len(thumbnails), _COARSE, _COARSE), np.float32)
    for index, image in enumerate(thumbnails):
        small[index] = rows @ image.astype(np.float32) @ columns
    return _detail(small, 0.5, 2.5)


def _candidates(
    thumbnails: NDArray[np.uint8], smallest: float, neighbours: int
) -> Iterator[tuple[float, int, int, Box, bool]]:
    """(correlation, part, whole, box, mirrored) of the pairs whose coarse thumbnails are alike."""
    count = len(thumbnails)
    full = _unit(_views(thumbnails, _BOXES[0]).reshape(count, -1))
    for start in range(0, count, _BLOCK):
        block = full[start : start + _BLOCK]
        best = np.full((len(block), count), -1.0, np.float32)
        variant = np.zeros((len(block), count), np.int16)
        for number, box in enumerate(_BOXES):
            views = _views(thumbnails, box)
            for mirrored in (False, True):
                view = views[:, :, ::-1] if mirrored else views
                alike = block @ _unit(view.reshape(count, -1)).T
                better = alike > best
                best[better] = alike[better]
                variant[better] = 2 * number + mirrored
        best[np.arange(len(block)), start + np.arange(len(block))] = -1.0
        nearest = np.argsort(-best, axis=1, kind="stable")[:, :neighbours]
        for row, columns in enumerate(nearest):
            for column in columns:
                if best[row, column] >= smallest:
                    number, flip = divmod(int(variant[row, column]), 2)
                    correlation = float(best[row, column])
                    yield correlation, start + row, int(column), _BOXES[number], bool(flip)


def _cut(image: Array, box: Box, size: int) -> Array:
    """The crop `box` of a square thumbnail, bilinearly resampled to (size, size); edges are repeated."""
    n = image.shape[0]
    unit = (np.arange(size) + 0.5) / size
    y = (box[0] + box[2] * unit) * n - 0.5
    x = (box[1] + box[3] * unit) * n - 0.5
    grid = np.meshgrid(y, x, indexing="ij")
    return map_coordinates(image, grid, order=1, mode="nearest", output=np.float32)


def _align(part: Array, whole: Array, box: Box) -> Box | None:
    """Refines `box` by Gauss-Newton on the band-passed difference of `part` and the crop of `whole`.

    Returns:
        The refined box, or None if nothing near `box` makes the two alike.
    """
    p = np.array(box)
    for size, fine, coarse, smallest in _LEVELS:
        wanted = _detail(_cut(part, _BOXES[0], size), fine, coarse)
        unit = (np.arange(size) + 0.5) / size
        for _ in range(_MAX_ITERATIONS):
            crop = _detail(_cut(whole, tuple(p), size), fine, coarse)
            dy, dx = np.gradient(crop * size)
            # The crop's pixel at (v, u) lies at top + v * height: derivatives by top, left, height and width.
            jacobian = np.stack([dy / p[2], dx / p[3], dy * unit[:, None] / p[2], dx * unit / p[3]]).reshape(
                4, -1
            )
            normal = jacobian @ jacobian.T
            damping = 1e-3 * np.trace(normal) / 4 * np.eye(4) + 1e-9 * np.eye(4)
            step = np.linalg.solve(normal + damping, jacobian @ (wanted - crop).ravel())
            p = p + np.clip(step, -0.05, 0.05)
            if not (min(p[2:]) > 0.3 and max(p[2:]) < 1.3 and min(p[:2]) > -0.3 and max(p[:2]) < 0.7):
                return None
            if np.abs(step).max() < 0.001:
                break
        a, b = _unit(np.stack([wanted.ravel(), crop.ravel()]))
        if a @ b < smallest:
            return None
    top, left, height, width = map(float, p)
    return top, left, height, width


def _verify(
    thumbnails: NDArray[np.uint8], part: int, whole: int, box: Box, mirrored: bool
) -> NearDuplicate | None:
    """The pair after alignment with the correlation of its fine detail, or None if it cannot be aligned."""
    ours, theirs = (thumbnails[index] / np.float32(255.0) for index in (part, whole))
    if mirrored:
        theirs = theirs[:, ::-1]
    aligned = _align(ours, theirs, box)
    if aligned is None:
        return None
    unit = (np.arange(THUMBNAIL) + 0.5) / THUMBNAIL
    y, x = aligned[0] + aligned[2] * unit, aligned[1] + aligned[3] * unit
    seen = ((y > 0) & (y < 1))[:, None] & ((x > 0) & (x < 1))[None, :]
    # Enlarging a crop blurs it: the part is blurred as much, so that neither has detail that the other lacks.
    ours = _detail(gaussian_filter(ours, 0.5 / min(1.0, *aligned[2:])), 0.0, 2.5)
    theirs = _detail(gaussian_filter(_cut(theirs, aligned, THUMBNAIL), 0.5), 0.0, 2.5)
    a, b = _unit(np.stack([ours[seen], theirs[seen]]))
    return NearDuplicate(part, whole, aligned, mirrored, float(a @ b))
