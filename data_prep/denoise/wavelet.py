"""Wavelet shrinkage as a denoiser that preparation can choose; scikit-image computes it."""

import dataclasses
from typing import Literal

import numpy as np
import pywt
from skimage.restoration import denoise_wavelet

from data_prep.denoise.registry import denoiser
from data_prep.denoise.unit_noise import denoise_at_unit_noise


@dataclasses.dataclass(frozen=True)
class WaveletSettings:
    """What can be set of it.

    Attributes:
        wavelet: PyWavelets' name of the orthogonal wavelet.
    """

    wavelet: Literal["db1", "db2", "db4", "sym4", "sym8"] = "sym4"


@denoiser("wavelet", settings=WaveletSettings)
def wavelet_shrinkage(pixels: np.ndarray, sigma: float, settings: WaveletSettings) -> np.ndarray:
    """BayesShrink: each subband has a soft threshold of its own (Chang, Yu and Vetterli, IEEE TIP 9(9), 2000)."""

    def shrunk(z: np.ndarray) -> np.ndarray:
        # Down to the coarsest: scikit-image's three levels less leave the noise of low frequencies in small images.
        levels = pywt.dwtn_max_level(z.shape, settings.wavelet)
        return denoise_wavelet(z, sigma=1.0, wavelet=settings.wavelet, wavelet_levels=levels)

    return denoise_at_unit_noise(pixels, sigma, shrunk, "wavelet shrinkage")
