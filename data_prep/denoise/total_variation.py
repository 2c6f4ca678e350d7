"""Total variation as a denoiser that preparation can choose; scikit-image computes it."""

import dataclasses
from typing import Annotated

import numpy as np
from skimage.restoration import denoise_tv_chambolle

from data_prep.denoise.registry import denoiser
from data_prep.denoise.unit_noise import denoise_at_unit_noise
from osteojax.config import Positive


@dataclasses.dataclass(frozen=True)
class TotalVariationSettings:
    """What can be set of it.

    Attributes:
        strength: weight of the total variation, as a multiple of sigma; the larger, the smoother.
    """

    strength: Annotated[float, Positive] = 1.0


@denoiser("total_variation", settings=TotalVariationSettings)
def total_variation(pixels: np.ndarray, sigma: float, settings: TotalVariationSettings) -> np.ndarray:
    """Rudin, Osher and Fatemi, Physica D 60, 1992, by Chambolle's projections (J. Math. Imaging Vis. 20, 2004)."""
    return denoise_at_unit_noise(
        pixels, sigma, lambda z: denoise_tv_chambolle(z, weight=settings.strength), "total variation"
    )
