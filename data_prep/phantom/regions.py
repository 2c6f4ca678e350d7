"""What each pixel of a phantom shows: exact masks of femur, tibia and joint space, from its geometry."""

import numpy as np
from numpy.typing import NDArray

from data_prep.phantom.acquisition import Acquisition, resample, shutter
from data_prep.phantom.anatomy import Patient
from data_prep.phantom.projection import FRAME_MM, outlines

REGIONS = ("background", "femur", "tibia", "joint_space")
BACKGROUND, FEMUR, TIBIA, JOINT_SPACE = range(len(REGIONS))
_PITCH_MM = 0.25


def knee_regions(
    patient: Patient, pitch_mm: float, frame_mm: float = FRAME_MM
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Femur, tibia and joint space in the knee's own frame, on the grid of `project`.

    The joint space is what lies straight between the femur and the tibia below it, in that frame; the bones cover
    what lies behind or before them (patella, fibula).

    Returns:
        three levels, float32 (n, n), positive inside: two distances in mm, and 1 or -1 for between.
    """
    femur, tibia = outlines(patient, pitch_mm, frame_mm)
    rows = np.arange(len(femur))[:, None]
    both = (femur > 0).any(0) & (tibia > 0).any(0)
    bottom = np.where(femur > 0, rows, -1).max(0)
    top = np.where(tibia > 0, rows, len(rows)).min(0)
    # With the bones' own last rows, so that nothing is left between where levels are resampled.
    between = both & (rows >= bottom) & (rows <= top)
    return femur, tibia, np.where(between, np.float32(1), np.float32(-1))


def as_labels(femur: NDArray, tibia: NDArray, between: NDArray) -> NDArray[np.uint8]:
    """Levels of `knee_regions`, resampled or not, as numbers of `REGIONS`."""
    bone = np.where(femur > 0, FEMUR, np.where(tibia > 0, TIBIA, BACKGROUND))
    return np.where((bone == BACKGROUND) & (between > 0), JOINT_SPACE, bone).astype(np.uint8)


def image_regions(
    patient: Patient, acquisition: Acquisition, image_size: tuple[int, int]
) -> NDArray[np.uint8]:
    """The number in `REGIONS` of each pixel of an image, (height, width) uint8; nothing lies behind the shutter."""
    levels = (
        resample(level, _PITCH_MM, acquisition, image_size) for level in knee_regions(patient, _PITCH_MM)
    )
    return np.where(shutter(acquisition, image_size), as_labels(*levels), np.uint8(BACKGROUND))
