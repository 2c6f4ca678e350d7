"""Local keypoints of a radiograph that mirroring, inversion and rotation leave as they are.

SIFT (Lowe 2004) of OpenCV. Its descriptors know rotation, scale and brightness already. Mirroring and inversion only
permute their entries, a group of four; what is kept of a descriptor is its parts even under the group, and the sizes of
its odd parts, so that a copy of any kind is sought by one query and not by four.
"""

import dataclasses
import functools
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

DIMENSIONS = 128

# Sides in pixels (height, width) under which an image is looked at, how many keypoints are kept of each, and among how
# many cells along a side they are shared out. A half of a radiograph of both knees, squashed to the same square, has
# the whole's proportions again in the second or third, and a crop to half of each side has its scale in the last.
_VIEWS = (((160, 160), 200, 3), ((160, 80), 80, 1), ((80, 160), 80, 1), ((80, 80), 60, 3))

# An image of fewer keypoints, a thin limb or half of one on a black ground, is looked at closer instead.
_FEW, _CLOSER = 400, 1.4

# A descriptor is 4 x 4 cells of 8 orientations. Mirrored along its main orientation, the rows of cells swap and
# orientations change sign; inverted, all gradients turn round, and the main orientation with them: both axes swap.
_INDEX = np.arange(DIMENSIONS).reshape(4, 4, 8)
_MIRROR = _INDEX[::-1][:, :, -np.arange(8) % 8].ravel()
_INVERT = _INDEX[::-1, ::-1].ravel()
_BOTH = _MIRROR[_INVERT]
_ORBITS = np.unique(np.min([np.arange(DIMENSIONS), _MIRROR, _INVERT, _BOTH], axis=0))


@dataclasses.dataclass(frozen=True)
class Keypoints:
    """The keypoints of one image.

    Attributes:
        points: float32 (k, 2), x and y in units of the image's width and height.
        sift: uint8 (k, DIMENSIONS), SIFT's own descriptors.
    """

    points: NDArray[np.float32]
    sift: NDArray[np.uint8]

    @functools.cached_property
    def descriptors(self) -> NDArray[np.float32]:
        """float32 (k, DIMENSIONS), norm 1: what is compared."""
        return _unsigned(self.sift.astype(np.float32))


def find_keypoints(image: NDArray[np.floating]) -> Keypoints:
    """Keypoints of (height, width) in any range; none of an image without contrast."""
    image = np.asarray(image, np.float32)
    low, high = float(image.min()), float(image.max())
    grey = np.rint((image - low) * np.float32(255.0 / max(high - low, 1e-6))).astype(np.uint8)
    # Evened out: what is dim or clipped by a window still has its keypoints among the strongest.
    evened = functools.partial(_of_views, grey, cv2.createCLAHE(4.0, (4, 4)))
    found = evened(1.0)
    return found if len(found.points) >= _FEW else evened(_CLOSER)


def _of_views(grey: NDArray[np.uint8], even: cv2.CLAHE, scale: float) -> Keypoints:
    """Keypoints of all views, the sides of which are `scale` times those of _VIEWS."""
    points, sift = [np.zeros((0, 2), np.float32)], [np.zeros((0, DIMENSIONS), np.uint8)]
    detector = cv2.SIFT_create(contrastThreshold=0.0, edgeThreshold=20)
    for sides, count, cells in _VIEWS:
        height, width = (round(scale * side) for side in sides)
        view = even.apply(cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA))
        side = np.array([width, height], np.float32)
        found = detector.detect(view, None)
        if len(found):
            # Chosen before they are described: of grain most are not kept, and describing is most of the work.
            kept = [found[i] for i in _strongest(found, side / cells, count)]
            kept, values = detector.compute(view, kept)
            points.append(cv2.KeyPoint.convert(kept) / side)
            sift.append(values.astype(np.uint8))  # whole numbers, though OpenCV gives them as float32
    return Keypoints(np.concatenate(points), np.concatenate(sift))


def _strongest(found: Sequence[cv2.KeyPoint], cell: NDArray[np.floating], count: int) -> NDArray[np.intp]:
    """Which keypoints to keep, at most `count`: from each cell in turn the strongest that is left.

    So that a window cut from the image still holds its share of them; the strongest of all lie together, at a marker
    or the edge of the film (Brown, Szeliski & Winder 2005 spread them by non-maximal suppression).

    Args:
        cell: (width, height) in pixels.
    """
    column, row = (cv2.KeyPoint.convert(found) // cell).astype(int).T
    response = np.array([point.response for point in found])
    by_cell = np.lexsort((-response, column, row))
    cells = np.stack([row, column])[:, by_cell]
    _, first, members = np.unique(cells, axis=1, return_index=True, return_counts=True)
    turn = np.empty(len(found), int)
    turn[by_cell] = np.arange(len(found)) - np.repeat(first, members)
    return np.sort(np.lexsort((-response, turn))[:count])


def _unsigned(sift: NDArray[np.float32]) -> NDArray[np.float32]:
    """(k, 128) descriptors to (k, 128), equal for an image, its mirror image, its negative and both.

    Square roots first, so that Euclidean distance is Hellinger's (Arandjelovic & Zisserman 2012).
    """
    root = np.sqrt(sift / np.maximum(sift.sum(axis=1, keepdims=True), np.float32(1e-6)))
    plain, mirror, invert, both = (
        root[:, order[_ORBITS]] for order in (np.arange(DIMENSIONS), _MIRROR, _INVERT, _BOTH)
    )
    even = plain + mirror + invert + both
    odd = (plain + mirror - invert - both, plain - mirror + invert - both, plain - mirror - invert + both)
    return np.hstack([even, *map(np.abs, odd)]).astype(np.float32) / np.float32(2.0)
