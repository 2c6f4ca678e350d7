"""Whether two images show the same fine detail where a map lays one upon the other.

Two knees can have the same outline, never the same trabeculae, skin folds and grain.
"""

import dataclasses

import cv2
import numpy as np
from numpy.typing import NDArray

from data_prep.audit.keypoint_index import credible

Array = NDArray[np.float32]

# Side in pixels of what is kept of an image.
THUMBNAIL = 128
# Bands, (fine, coarse) standard deviations in pixels: what is aligned by, and what is compared then. Coarser detail is
# anatomy, which other knees have too.
_ALIGNED_BY, _COMPARED = (1.0, 4.0), (0.0, 2.0)
# Side in pixels of what is compared at a time, how many of these there must be, and which share of them may be less
# alike than is told.
_TILE, _TILES, _SPARED = 16, 12, 0.4
# Least `_crossing` of a tile that is compared.
_CROSSING = 0.03
# Of images that have hardly any such tile all count, and what they lack of 1 so many times.
_DOUBTED = 2.0
_STEPS = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 30, 3e-4)


@dataclasses.dataclass(frozen=True)
class Alignment:
    """How one image lies upon another.

    Attributes:
        matrix: float64 (2, 3), maps (x, y, 1) in units of the sides of one to x and y of the other.
        inverted: whether bright and dark are swapped.
        correlation: of the fine detail, -1 to 1: what three fifths of the tiles exceed that have some in both, so that
            text, borders and what a window clips do not count. The highest of three: of the images as they are, for
            a white border shifts all ranks, and of either with the other's grey levels. Where hardly a tile shows more
            than straight edges it is held back, so that only what hardly differs is a copy.
    """

    matrix: NDArray[np.float64]
    inverted: bool
    correlation: float


def thumbnail(image: NDArray[np.floating]) -> NDArray[np.uint8]:
    """The image as uint8 (THUMBNAIL, THUMBNAIL): area-averaged, aspect ratio squashed, min-max to 0..255.

    Args:
        image: (height, width), any range; sides smaller than THUMBNAIL are interpolated.
    """
    small = np.asarray(image, np.float32)
    # A side at a time: OpenCV averages areas only where no side grows.
    for sides in ((THUMBNAIL, small.shape[0]), (THUMBNAIL, THUMBNAIL)):
        small = cv2.resize(small, sides, interpolation=cv2.INTER_AREA)
    low, high = float(small.min()), float(small.max())
    return np.rint((small - low) * np.float32(255.0 / max(high - low, 1e-6))).astype(np.uint8)


def align(part: NDArray[np.uint8], whole: NDArray[np.uint8], matrix: NDArray[np.float64]) -> Alignment | None:
    """Refines a map from `part` to `whole`, two thumbnails, and compares what both show.

    The enhanced correlation coefficient (Evangelidis & Psarakis 2008), as OpenCV maximises it.

    Args:
        matrix: (2, 3), as in Alignment, right to a few hundredths of a side.

    Returns:
        None where nothing near the map makes the two alike, or they have too little in common.
    """
    pixels = _in_pixels(matrix)
    moved, seen = _laid_under(whole, pixels)
    inverted = bool((_detail(part, *_ALIGNED_BY) * _detail(moved, *_ALIGNED_BY))[seen].sum() < 0)
    if inverted:
        part = 255 - part  # uint8 stays uint8
    ours, theirs = _detail(part, *_ALIGNED_BY), _detail(_toned(moved, part, seen), *_ALIGNED_BY)
    start, mask = np.eye(2, 3, dtype=np.float32), seen.astype(np.uint8)
    try:
        _, step = cv2.findTransformECC(ours, theirs, start, cv2.MOTION_AFFINE, _STEPS, mask, 1)
    except cv2.error:  # it does not converge
        return None
    pixels = pixels @ np.vstack([step, [0, 0, 1]])
    refined = _in_units(pixels)
    if not credible(refined):
        return None
    moved, seen = _laid_under(whole, pixels)
    # Enlarging a crop blurs it: the part is blurred as much, so that neither has detail that the other lacks.
    enlarged = max(1.0, 1.0 / float(np.linalg.norm(refined[:, :2], axis=0).min()))
    blurred = _smooth(part.astype(np.float32), 0.5 * enlarged)
    moved = _smooth(moved, 0.5)
    compared = [
        _tiles(_detail(a, *_COMPARED), _detail(b, *_COMPARED), seen)
        for a, b in (
            (blurred, moved),
            (blurred, _toned(moved, blurred, seen)),
            (moved, _toned(blurred, moved, seen)),
        )
    ]
    found = [correlation for correlation in compared if correlation is not None]
    return Alignment(refined, inverted, max(found)) if found else None


def _toned(image: Array, like: NDArray, seen: NDArray[np.bool_]) -> Array:
    """`image` with the grey levels that pixels of the same rank have in `like`: histogram specification.

    It undoes what changed each grey level by itself, equalisation above all, whose curve is too steep at the skin for
    local contrast to even out.

    Args:
        image, like: (n, n), 0 to 255.
        seen: which pixels are ranked.
    """
    levels = np.arange(256)

    def ranks(values: NDArray) -> NDArray[np.float64]:
        counts = np.bincount(np.rint(values[seen]).astype(np.uint8), minlength=256)
        return np.cumsum(counts) - counts / 2

    curve = np.interp(ranks(image), ranks(like), levels)
    return np.interp(image, levels, curve).astype(np.float32)


def _detail(image: NDArray, fine: float, coarse: float) -> Array:
    """Band-passed image (n, n) with local contrast evened out: exposure, window and gamma drop out.

    Args:
        fine: standard deviation in pixels of what is smoothed away, 0 for nothing.
        coarse: standard deviation in pixels of what is subtracted.
    """
    image = image.astype(np.float32) / np.float32(255.0)
    band = (_smooth(image, fine) if fine else image) - _smooth(image, coarse)
    energy = _smooth(band * band, 1.5 * coarse)
    # 0.004 is a grey level: flat background is not blown up into texture.
    return (band / (np.sqrt(np.maximum(energy, 0.0)) + 0.004)).astype(np.float32)


def _smooth(image: Array, sigma: float) -> Array:
    return cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)


def _laid_under(whole: NDArray[np.uint8], pixels: NDArray[np.float64]) -> tuple[Array, NDArray[np.bool_]]:
    """`whole` in the frame of the part, and where it shows anything."""
    size, backwards = (THUMBNAIL, THUMBNAIL), cv2.WARP_INVERSE_MAP
    flags, edge = cv2.INTER_LINEAR | backwards, cv2.BORDER_REPLICATE
    moved = cv2.warpAffine(whole.astype(np.float32), pixels, size, flags=flags, borderMode=edge)
    seen = cv2.warpAffine(np.ones_like(whole), pixels, size, flags=cv2.INTER_NEAREST | backwards)
    return moved, seen > 0


def _tiles(ours: Array, theirs: Array, seen: NDArray[np.bool_]) -> float | None:
    """Quantile over tiles of the normalised cross-correlation, or None of too few."""
    a, b = _tiled(ours), _tiled(theirs)
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    norms = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    # A tile that is blank in one has nothing to compare: background, a frame, or what a window clipped.
    used = (_tiled(seen).mean(1) > 0.9) & (np.minimum(*norms) > 0.3 * _TILE)
    # One with nothing but a straight edge is like all others: limbs of other people would be copies.
    telling = used & (_crossing(ours) > _CROSSING)
    enough = telling.sum() >= _TILES
    if used.sum() < _TILES:
        return None
    used = telling if enough else used
    alike = (a * b).sum(1)[used] / (norms[0] * norms[1])[used]
    found = float(np.quantile(alike, _SPARED))
    return found if enough else 1 - _DOUBTED * (1 - found)


def _tiled(values: NDArray) -> NDArray:
    """(n, n) to (tiles, pixels)."""
    count = THUMBNAIL // _TILE
    return values.reshape(count, _TILE, count, _TILE).swapaxes(1, 2).reshape(count * count, -1)


def _crossing(image: Array) -> Array:
    """Of each tile how much it changes along its edges for what it changes across them, 0 to 1.

    The ratio of the eigenvalues of the structure tensor (Foerstner & Guelch 1987).
    """
    x, y = (cv2.Sobel(image, cv2.CV_32F, *order) for order in ((1, 0), (0, 1)))
    xx, yy, xy = (_tiled(product).sum(1) for product in (x * x, y * y, x * y))
    both, apart = xx + yy, np.sqrt((xx - yy) ** 2 + 4 * xy**2)
    return (both - apart) / np.maximum(both + apart, np.float32(1e-9))


# Pixel 0 of a thumbnail lies half a pixel within.
_UNITS = np.array([[1 / THUMBNAIL, 0, 0.5 / THUMBNAIL], [0, 1 / THUMBNAIL, 0.5 / THUMBNAIL], [0, 0, 1]])


def _in_pixels(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    return (np.linalg.inv(_UNITS) @ np.vstack([matrix, [0, 0, 1]]) @ _UNITS)[:2]


def _in_units(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    return (_UNITS @ np.vstack([pixels, [0, 0, 1]]) @ np.linalg.inv(_UNITS))[:2]
