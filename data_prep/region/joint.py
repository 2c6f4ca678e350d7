"""Where the joint lies, from probabilities of the regions; and whether that can be believed."""

import dataclasses

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, find_objects, label

from data_prep.phantom.regions import BACKGROUND, FEMUR, JOINT_SPACE, TIBIA
from data_prep.region.spec import FOUND

# In pixels of the segmenter's square. A joint space across a long film is about 25 by 3.
_FEWEST_PIXELS = 20
# Specks: pieces of joint space below this share of the largest.
_SPECK = 0.25
_MOST_JOINTS = 2
# Width of a joint over the height of its space, and of one knee's over the other's.
_NARROWEST, _MOST_UNLIKE = 1.5, 1.6
# Mean probability of the answer over the joint space; what it turns away is in docs/region.md.
_LEAST_SURE = 0.75
# Rows above and below a joint space in which the bones tell its width.
_BESIDE = 3
# Sides of the crop around one joint, over the width of the joint; what a mask is widened by, in pixels.
_CROP, _WIDENED = 1.6, 2
_EVERYWHERE = np.ones((3, 3), bool)


@dataclasses.dataclass(frozen=True)
class Region:
    """What was found in a radiograph.

    Attributes:
        reason: "found", or why the image goes on as it is.
        rows, columns: (start, stop) of the crop as shares of height and width.
        mask: bool, what shows femur, tibia or joint space, over the radiograph in the segmenter's pixels.
        bones: float32, likewise: probability of bone, plus half of that of joint space, within the mask; 0 where
            nothing was found.
    """

    reason: str
    rows: tuple[float, float] = (0.0, 1.0)
    columns: tuple[float, float] = (0.0, 1.0)
    mask: NDArray[np.bool_] = dataclasses.field(default_factory=lambda: np.ones((1, 1), bool))
    bones: NDArray[np.float32] = dataclasses.field(default_factory=lambda: np.zeros((1, 1), np.float32))


def find_region(p: NDArray[np.float32]) -> Region:
    """The joint, or both, of a radiograph.

    Args:
        p: (height, width, 4) probabilities of the regions over the radiograph alone, without padding.
    """
    labels = p.argmax(-1)
    knees, _ = label(labels != BACKGROUND, _EVERYWHERE)
    joints = _joints(labels, knees)
    boxes = _boxes(joints, knees)
    reason = _doubt(labels, p, joints, boxes)
    if reason != FOUND:
        return Region(reason)
    side = _CROP * max(columns.stop - columns.start for _, columns in boxes) / 2
    centres = [[(part.start + part.stop) / 2 for part in box] for box in boxes]
    (top, left), (bottom, right) = np.min(centres, 0) - side, np.max(centres, 0) + side
    height, width = labels.shape
    mask = binary_dilation(np.isin(knees, knees[joints > 0]), _EVERYWHERE, _WIDENED)
    return Region(
        FOUND,
        (max(0.0, top / height), min(1.0, bottom / height)),
        (max(0.0, left / width), min(1.0, right / width)),
        mask,
        np.where(mask, p[..., FEMUR] + p[..., TIBIA] + p[..., JOINT_SPACE] / 2, np.float32(0)),
    )


def _joints(labels: NDArray[np.int_], knees: NDArray[np.int_]) -> NDArray[np.int_]:
    """The joint space of each knee numbered from 1, in one piece or several, without specks; 0 elsewhere."""
    pieces, count = label(labels == JOINT_SPACE, _EVERYWHERE)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    sizes[0] = 0
    kept = (sizes >= max(_FEWEST_PIXELS, _SPECK * sizes.max(initial=0)))[pieces]
    return np.where(kept, np.searchsorted(np.unique(knees[kept]), knees) + 1, 0)


def _boxes(joints: NDArray[np.int_], knees: NDArray[np.int_]) -> list[tuple[slice, slice]]:
    """Rows of each joint space, and columns of the bones beside it, which tell where it ends if it is not all seen."""
    boxes = []
    for number, (rows, _) in enumerate(find_objects(joints), start=1):
        near = slice(max(0, rows.start - _BESIDE), rows.stop + _BESIDE)
        knee = knees[joints == number][0]
        columns = np.flatnonzero((knees[near] == knee).any(0))
        boxes.append((rows, slice(int(columns[0]), int(columns[-1]) + 1)))
    return boxes


def _doubt(
    labels: NDArray[np.int_],
    p: NDArray[np.float32],
    joints: NDArray[np.int_],
    boxes: list[tuple[slice, slice]],
) -> str:
    """`FOUND`, or the first thing that is wrong."""
    if not boxes:
        return "no joint space"
    if len(boxes) > _MOST_JOINTS:
        return "more than two joint spaces"
    for number, (rows, columns) in enumerate(boxes, start=1):
        if columns.stop - columns.start < _NARROWEST * (rows.stop - rows.start):
            return "a joint space of no such shape"
        size = np.count_nonzero(joints == number)
        if np.count_nonzero(labels[: rows.stop, columns] == FEMUR) < size:
            return "no femur above the joint space"
        if np.count_nonzero(labels[rows.start :, columns] == TIBIA) < size:
            return "no tibia below the joint space"
        below, above = labels[rows.stop :, columns] == FEMUR, labels[: rows.start, columns] == TIBIA
        if np.count_nonzero(below) + np.count_nonzero(above) > size:
            return "femur below or tibia above the joint space"
    widths = [columns.stop - columns.start for _, columns in boxes]
    if max(widths) > _MOST_UNLIKE * min(widths):
        return "two joint spaces too unlike"
    if p.max(-1)[joints > 0].mean() < _LEAST_SURE:
        return "not sure enough"
    return FOUND
