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

# Larger pictures are looked at reduced to this side; letters are larger in them.
_SIDE = 1536
# Letters have strokes narrower than this, in pixels, and stand out by so many grey levels of 255.
_STROKE = 13
_CONTRAST = 70
# Heights and areas of a letter in pixels.
_LOWEST, _HIGHEST, _FEWEST_PIXELS = 6, 64, 8
_LETTERS = 4
"""The fewest letters of a line."""


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
        mask = cv2.threshold(cv2.morphologyEx(grey, kind, kernel), _CONTRAST, 255, cv2.THRESH_BINARY)[1]
        if not mask.any():
            continue
        regions = cv2.connectedComponentsWithStats(mask, connectivity=8, ltype=cv2.CV_32S)[2][1:]
        found += _lines(regions[:, :4], regions[:, 4])
        upright = regions[:, [1, 0, 3, 2]]
        found += [box[[1, 0, 3, 2]] for box in _lines(upright, regions[:, 4])]
    return [_box(box, scale, pixels.shape) for box in found]


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
    scale = max(1.0, max(pixels.shape) / _SIDE)
    sample = pixels[:: max(1, pixels.shape[0] // 512), :: max(1, pixels.shape[1] // 512)]
    low, high = np.percentile(sample, (0.1, 99.9))
    gain = 255 / max(high - low, np.finfo(np.float32).tiny)
    grey = cv2.convertScaleAbs(np.clip(pixels, low, high) - low, alpha=gain)
    if scale > 1:
        height, width = (max(1, round(side / scale)) for side in pixels.shape)
        grey = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)
    return grey, scale


def _lines(regions: np.ndarray, areas: np.ndarray) -> list[np.ndarray]:
    """Left, top, width and height of lines among regions of which these are known."""
    width, height = regions[:, 2], regions[:, 3]
    filled = areas / np.maximum(width * height, 1)
    letter = (height >= _LOWEST) & (height <= _HIGHEST) & (areas >= _FEWEST_PIXELS)
    letter &= (width <= 3 * height) & (filled >= 0.15)
    letters = regions[letter]
    letters = letters[np.argsort(letters[:, 0], kind="stable")]
    lines: list[list[np.ndarray]] = []
    for one in letters:
        for line in lines:
            if _continues(line[-1], one):
                line.append(one)
                break
        else:
            lines.append([one])
    return [_hull(line) for line in lines if len(line) >= _LETTERS]


def _continues(last: np.ndarray, one: np.ndarray) -> bool:
    """Whether a letter is the next after another in a line."""
    height = max(last[3], one[3])
    return bool(
        min(last[3], one[3]) >= 0.6 * height
        and abs(last[1] + last[3] - one[1] - one[3]) <= 0.25 * height
        and one[0] - last[0] - last[2] <= 1.2 * height
    )


def _hull(line: Sequence[np.ndarray]) -> np.ndarray:
    boxes = np.array(line)
    left, top = boxes[:, 0].min(), boxes[:, 1].min()
    right, bottom = (boxes[:, 0] + boxes[:, 2]).max(), (boxes[:, 1] + boxes[:, 3]).max()
    return np.array([left, top, right - left, bottom - top])


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
