"""Cortical thickness of femur and tibia near the edge of the film, from the map of bones beside the image.

Radiogrammetry (Barnett and Nordin 1960): along a line across the shaft the cortex is bright, its outer edge lies where
the profile has risen half of the way from the soft tissue to its peak, its inner edge where it has fallen half of the
way to the marrow. Rows are lines across upright shafts; what is measured along a row is longer by the shaft's slant.
"""

import numpy as np
from jaxtyping import Float
from scipy.ndimage import gaussian_filter, label

from osteojax.baselines.sources.registry import SOURCES, Table, table
from osteojax.data.dataset import Examples
from osteojax.errors import UserError
from osteojax.registry import NoSettings

FEATURES = tuple(
    f"{bone}: {what}" for bone in ("femur", "tibia") for what in ("cortical thickness", "share of the width")
)
# Values of the map (docs/region.md): bone is 1, joint space 1/2.
_BONE, _SPACE = 0.75, (0.4, 0.6)
# Of a bone's rows these are its shaft, counted from the edge of the film, where a shutter may lie over the first.
_SHAFT, _EDGE, _FEWEST = 0.1, 2, 8
# Pixels beyond the map's outline where the cortex may begin, and those that a bone is wide at least.
_BEYOND, _NARROW = 4, 9
# Standard deviation in pixels of what grain is smoothed by.
_GRAIN = 0.5


@SOURCES.function("cortex")
def cortex(examples: Examples, settings: NoSettings) -> Table:
    """Four features of each image; see `cortical_features`.

    Raises:
        UserError: the images have no map beside them.
    """
    del settings  # it has none
    return table(FEATURES, np.stack([cortical_features(_mapped(example["image"])) for example in examples]))


def _mapped(image: np.ndarray) -> np.ndarray:
    if image.shape[-1] != 2:
        raise UserError(
            "the source 'cortex' needs the map of bones beside the image; prepare with --config.region.how=channel"
        )
    return image


def cortical_features(image: Float[np.ndarray, "height width 2"]) -> Float[np.ndarray, "4"]:
    """Of femur and tibia: thickness of the cortex in pixels, mean of both sides, and what share of the width both are.

    Args:
        image: a prepared image in [0, 1], femur above, and its map; of two knees the larger bones are measured.

    Returns:
        float64, NaN where a bone is not there or too few rows show both sides of it.
    """
    grey, where = gaussian_filter(image[..., 0].astype(np.float64), _GRAIN), image[..., 1]
    space = ((where > _SPACE[0]) & (where < _SPACE[1])).sum(1)
    if not space.any():
        return np.full(len(FEATURES), np.nan)
    joint = int(np.average(np.arange(len(space)), weights=space))
    # Each from the edge of the film inwards.
    femur, tibia = slice(None, joint), slice(None, joint, -1)
    return np.concatenate([_of_shaft(grey[rows], where[rows] > _BONE) for rows in (femur, tibia)])


def _of_shaft(grey: np.ndarray, bone: np.ndarray) -> np.ndarray:
    """(thickness, share of the width) of a bone, whose rows come from the edge of the film inwards."""
    parts, count = label(bone)
    if not count:
        return np.full(2, np.nan)
    bone = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
    found = np.flatnonzero(bone.sum(1) >= _NARROW)[_EDGE:]
    rows = found[: max(int(_SHAFT * len(found)), _FEWEST)]
    measured = [(row, *edges) for row in rows if (edges := _edges(grey[row], bone[row])) is not None]
    if len(measured) < _FEWEST / 2:
        return np.full(2, np.nan)
    height, left, left_inner, right_inner, right = np.array(measured).T
    sides = ((left, left_inner - left), (right, right - right_inner))
    across = [np.median(along) / np.hypot(1, np.polyfit(height, outer, 1)[0]) for outer, along in sides]
    share = sum(np.median(along) for _, along in sides) / np.median(right - left)
    return np.array([np.mean(across), share])


def _edges(grey: np.ndarray, bone: np.ndarray) -> tuple[float, float, float, float] | None:
    """Along one row where the left cortex begins and ends, and the right one; None where either is not to be seen."""
    first, last = np.flatnonzero(bone)[[0, -1]]
    width = last + 1 - first
    marrow = float(np.median(grey[first + width // 3 : last + 1 - width // 3]))
    low, high = max(first - _BEYOND, 0), min(last + 1 + _BEYOND, len(grey))
    left = _half_levels(grey[low:high], marrow)
    right = _half_levels(grey[low:high][::-1], marrow)
    if left is None or right is None:
        return None
    return low + left[0], low + left[1], high - 1 - right[1], high - 1 - right[0]


def _half_levels(profile: np.ndarray, marrow: float) -> tuple[float, float] | None:
    """Where a profile (n,), from outside inwards, crosses half the rise to the first third's peak, half its fall."""
    top = int(np.argmax(profile[: len(profile) // 3]))
    outside, peak = float(profile[: top + 1].min()), float(profile[top])
    rise, fall = (outside + peak) / 2, (marrow + peak) / 2
    before, after = np.flatnonzero(profile[:top] < rise), top + np.flatnonzero(profile[top:] < fall)
    if peak <= marrow or not len(before) or not len(after):
        return None
    k, m = int(before[-1]), int(after[0])
    outer = k + (rise - profile[k]) / (profile[k + 1] - profile[k])
    return float(outer), float(m - (fall - profile[m]) / (profile[m - 1] - profile[m]))
