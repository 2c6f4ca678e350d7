"""No denoising: what every denoiser is compared with."""

import numpy as np

from data_prep.denoise.registry import NoSettings, denoiser


@denoiser("none")
def leave(pixels: np.ndarray, sigma: float, settings: NoSettings) -> np.ndarray:
    """The pixels as they are."""
    return pixels
