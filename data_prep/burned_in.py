"""Writing that was burned into a radiograph: where lines of letters are, and the picture without them.

A name, a date or an accession number in the pixels identifies a person whatever is done to the header. Letters of one
line are small connected regions, much brighter or darker than what is around them, of about one height, on one base
line, close to each other. One or two letters, as of side markers (L, R), are no line. What is found of what is written,
and what else is taken for it: docs/privacy.md, measured by benchmarks/burned_in.py.
"""

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

# Larger pictures are looked at reduced to this side; letters are larger in them.
_SIDE = 1536
# Letters have strokes narrower than this, in pixels, and stand out by so many grey levels of 255.
_STROKE, _CONTRAST = 13, 70
# Heights and areas of a letter in pixels; the brightest (or darkest) levels of two letters of a line differ by less.
_LOWEST, _HIGHEST, _FEWEST_PIXELS, _TONE = 6, 64, 8, 40
_FEWEST_LETTERS = 4
# More regions that could be letters are noise or texture, in which nothing is looked for.
_MOST_LETTERS = 4096


@dataclasses.dataclass(frozen=True)
class Box:
    """A line of letters, in pixels of the picture; `bottom` and `right` are beyond it."""

    top: int
    left: int
    bottom: int
    right: int


def find_text(pixels: np.ndarray) -> list[Box]:
    """Where lines of letters are, lying or upright.

    Args:
        pixels: (height, width), finite, any real dtype.
    """
    grey, scale = _grey(pixels)
    kernel = cv2.getStructuringElement(cv2.MORPH_RECT, (_STROKE, _STROKE))
    found: list[np.ndarray] = []
    for kind in (cv2.MORPH_TOPHAT, cv2.MORPH_BLACKHAT):  # brighter, darker than what is around
        contrast = cv2.morphologyEx(grey, kind, kernel)
        regions = _regions(cv2.threshold(contrast, _CONTRAST, 255, cv2.THRESH_BINARY)[1])
        tone = grey if kind == cv2.MORPH_TOPHAT else 255 - grey
        found += _lines(regions, tone)
        found += [line[[1, 0, 3, 2]] for line in _lines(regions[:, [1, 0, 3, 2, 4]], tone.T)]
    return [_box(line, scale, pixels.shape) for line in found]


def without_text(pixels: np.ndarray, boxes: Sequence[Box]) -> np.ndarray:
    """The picture whose boxes are filled with the median of what is around them, in the dtype of `pixels`."""
    pixels = pixels.copy()
    around = np.ones(pixels.shape, bool)
    for box in boxes:
        around[box.top : box.bottom, box.left : box.right] = False
    for box in boxes:
        margin = max(2, (box.bottom - box.top) // 2)
        window = (
            slice(max(0, box.top - margin), box.bottom + margin),
            slice(max(0, box.left - margin), box.right + margin),
        )
        known = pixels[window][around[window]]
        fill = np.median(known) if known.size else np.median(pixels)
        pixels[box.top : box.bottom, box.left : box.right] = fill
    return pixels


def _grey(pixels: np.ndarray) -> tuple[np.ndarray, float]:
    """8 bits between the ends of the range without its rarest values, reduced; and the reduction."""
    grey = np.ascontiguousarray(pixels, np.float32)
    scale = max(1.0, max(grey.shape) / _SIDE)
    low, high = np.percentile(grey[:: grey.shape[0] // 256 or 1, :: grey.shape[1] // 256 or 1], (0.1, 99.9))
    if high <= low:
        low, high = float(grey.min()), float(grey.max())
    if scale > 1:
        height, width = (max(1, round(side / scale)) for side in grey.shape)
        grey = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)
    gain = 255 / max(high - low, float(np.finfo(np.float32).tiny))
    return cv2.convertScaleAbs(cv2.max(grey, low) - np.float32(low), alpha=gain), scale


def _regions(mask: np.ndarray) -> np.ndarray:
    """(n, 5): left, top, width, height and pixels of each connected region."""
    stats = cv2.connectedComponentsWithStats(mask)[2]
    return stats[1:].astype(np.float32)  # the first is what is no region


def _lines(regions: np.ndarray, tone: np.ndarray) -> list[np.ndarray]:
    """Left, top, width and height of each line of letters among regions.

    Args:
        regions: as of `_regions`.
        tone: the picture, in which letters are bright.
    """
    width, height, pixels = regions[:, 2], regions[:, 3], regions[:, 4]
    letter = (height >= _LOWEST) & (height <= _HIGHEST) & (width <= 3 * height)
    letter &= (pixels >= _FEWEST_PIXELS) & (pixels >= 0.15 * width * height)
    letters = regions[letter]
    if not _FEWEST_LETTERS <= len(letters) <= _MOST_LETTERS:
        return []
    left, top, width, height = letters.T[:4]
    right, bottom = left + width, top + height
    levels = np.array([tone[y : y + h, x : x + w].max() for x, y, w, h in letters[:, :4].astype(int)], int)

    def difference(values: np.ndarray) -> np.ndarray:
        return np.abs(values[:, None] - values[None])

    higher = np.maximum(height[:, None], height[None])
    apart = np.maximum(left[None] - right[:, None], left[:, None] - right[None])
    neighbours = difference(height) <= 0.4 * higher
    neighbours &= difference(bottom) <= 0.25 * higher
    neighbours &= apart <= 1.2 * higher
    neighbours &= difference(levels) < _TONE
    count, line_of = connected_components(coo_array(neighbours), directed=False)
    found = []
    for line in range(count):
        of = line_of == line
        if of.sum() < _FEWEST_LETTERS:
            continue
        hull = np.array([left[of].min(), top[of].min(), right[of].max(), bottom[of].max()])
        wide, high = hull[2:] - hull[:2]
        if high <= 2 * np.median(height[of]) and wide >= 2 * high:
            found.append(_completed(hull, regions))
    return found


def _completed(hull: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """A line with what else is written on it: signs, short words, letters that touch each other.

    Args:
        hull: left, top, right and bottom.
        regions: as of `_regions`.

    Returns:
        left, top, width and height.
    """
    high = hull[3] - hull[1]
    corners = np.concatenate([regions[:, :2], regions[:, :2] + regions[:, 2:4]], axis=1)
    beside = (corners[:, 1] >= hull[1] - 0.3 * high) & (corners[:, 3] <= hull[3] + 0.3 * high)
    while True:
        near = beside & (corners[:, 0] <= hull[2] + high) & (corners[:, 2] >= hull[0] - high)
        beside &= ~near
        if not near.any():
            return np.concatenate([hull[:2], hull[2:] - hull[:2]])
        hull[:2] = np.minimum(hull[:2], corners[near, :2].min(axis=0))
        hull[2:] = np.maximum(hull[2:], corners[near, 2:].max(axis=0))


def _box(found: np.ndarray, scale: float, shape: tuple[int, ...]) -> Box:
    """With a margin for what is fainter at the letters' edges, and for points and commas below the line."""
    left, top, width, height = (float(value) for value in found)
    margin = 0.35 * min(width, height) + 2
    return Box(
        max(0, int((top - margin) * scale)),
        max(0, int((left - margin) * scale)),
        min(shape[0], int(np.ceil((top + height + margin) * scale))),
        min(shape[1], int(np.ceil((left + width + margin) * scale))),
    )
