"""Non-local means as a denoiser that preparation can choose; scikit-image computes it."""

import dataclasses
from typing import Annotated

import numpy as np
from skimage.restoration import denoise_nl_means

from data_prep.denoise.registry import denoiser
from data_prep.denoise.unit_noise import denoise_at_unit_noise
from osteojax.config import Bound, Positive


@dataclasses.dataclass(frozen=True)
class NonLocalMeansSettings:
    """What can be set of it.

    Attributes:
        strength: h, beyond which difference two patches have nothing to do with each other, as a multiple of sigma.
        patch_size: side of a patch in pixels.
        patch_distance: how far from a pixel patches are looked for, in pixels.
    """

    strength: Annotated[float, Positive] = 0.8
    patch_size: Annotated[int, Bound(low=1, high=31)] = 7
    patch_distance: Annotated[int, Bound(low=1, high=63)] = 11


@denoiser("nl_means", settings=NonLocalMeansSettings)
def non_local_means(pixels: np.ndarray, sigma: float, settings: NonLocalMeansSettings) -> np.ndarray:
    """Buades, Coll and Morel, CVPR 2005, by Darbon et al.'s sums over the whole image (ISBI 2008).

    Twice sigma squared, what noise alone adds to the distance of two pixels, is taken off the distances.
    """
    return denoise_at_unit_noise(
        pixels,
        sigma,
        lambda z: denoise_nl_means(
            z,
            patch_size=settings.patch_size,
            patch_distance=settings.patch_distance,
            h=settings.strength,
            fast_mode=True,
            sigma=1.0,
        ),
        "non-local means",
    )
