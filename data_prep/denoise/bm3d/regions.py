"""Regions of an image, within which bounded BM3D matches its blocks.

Q. Chen and D. Wu, "Image denoising by bounded block matching and 3D filtering", Signal Processing 90(9), 2010. Its text
was not at hand, but for the abstract. From there: the image is partitioned into regions; a block is matched within the
region of the reference block; where a block lies over a boundary, each of its segments is matched for itself, in part.

What the abstract leaves open is our reading:

* Regions are classes of grey levels: thresholds by Otsu's method for several classes (IEEE TSMC 9(1), 1979), applied to
  what profile `faster` makes of the image, and a median over 9x9 pixels against specks.
* A segment is compared over its own pixels, with such blocks as have their pixels there in the same region, and the
  limits of a distance are those of the share of a block that is compared.
* A region is filtered as if the image ended where it does: beyond its boundary it is continued by its mirror image, and
  what a block becomes there is not kept.
"""

import numpy as np
from numba import njit
from scipy.ndimage import median_filter
from skimage.filters import threshold_multiotsu

_LEVELS = 256
# Side of a median over the regions, in pixels: specks of another one would be matched with nothing.
_SPECKLE = 9
# How far a block that touches a region can lie beyond it, each way.
_BEYOND = 7

CONTINUED = 2 * _BEYOND
"""Pixels, each way, that the continuation of a region depends on, where a block can see it."""


def regions_of(clean: np.ndarray, count: int) -> np.ndarray:
    """The region of every pixel.

    Args:
        clean: float32 (height, width), with little noise.
        count: of regions, 2 or more.

    Returns:
        uint8 (height, width), from 0 for the darkest to `count` - 1; all 0 where there are fewer grey levels than that.
    """
    histogram, edges = np.histogram(clean, _LEVELS)
    if np.count_nonzero(histogram) < count:
        return np.zeros(clean.shape, np.uint8)
    levels = (edges[:-1] + edges[1:]) / 2
    thresholds = threshold_multiotsu(classes=count, hist=(histogram, levels))
    return median_filter(np.searchsorted(thresholds, clean).astype(np.uint8), _SPECKLE)


def continued(image: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The image within a region, and its mirror image up to 7 pixels beyond.

    A pixel outside takes the place of one that lies as far beyond the nearest pixel of the region as this one before
    it, where the region goes on so far, and of that nearest pixel otherwise.

    Args:
        image: float32 (height, width).
        inside: bool (height, width), true in the region.

    Returns:
        float32 (height, width); 0 farther from the region.
    """
    return _continued(image, inside, _nearest_first())


def _nearest_first() -> np.ndarray:
    axis = np.arange(-_BEYOND, _BEYOND + 1)
    dy, dx = (a.ravel() for a in np.meshgrid(axis, axis, indexing="ij"))
    order = np.lexsort((dx, dy, dy * dy + dx * dx))
    return np.stack([dy[order], dx[order]], axis=1)


@njit(nogil=True, cache=True)
def _continued(image: np.ndarray, inside: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    height, width = image.shape
    result = np.zeros_like(image)
    for y in range(height):
        for x in range(width):
            for n in range(len(offsets)):
                dy, dx = offsets[n, 0], offsets[n, 1]
                row, column = y + dy, x + dx
                if not (0 <= row < height and 0 <= column < width and inside[row, column]):
                    continue
                beyond, aside = row + dy, column + dx
                if 0 <= beyond < height and 0 <= aside < width and inside[beyond, aside]:
                    row, column = beyond, aside
                result[y, x] = image[row, column]
                break
    return result
