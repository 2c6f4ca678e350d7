"""What is done about an image's noise where nobody gave its sigma: the rule that keeps a denoiser off a film's bone.

White noise is removed as such, coloured noise by its spectrum where that is known to be noise, and everything else is
left alone: docs/real_films.md says what denoising does to such films.
"""

import dataclasses

import numpy as np

from data_prep.denoise.noise import NoiseEstimate
from data_prep.denoise.spectrum import estimate_spectrum

FAINT = 0.5  # grey levels of a range of 255: rounding to 8 bits alone is 0.29

LEFT_ALONE = {
    "left_faint": f"noise below {FAINT:g} grey levels: removing it changes nothing",
    "left_white_only": "coloured noise, and the denoiser knows white noise only",
    "left_few_tiles": "too few quiet tiles to measure noise in: its sigma cannot be known",
    "left_uneven": "quiet tiles disagree, as those of texture do: its sigma cannot be known",
    "left_texture": "the quiet tiles have the spectrum of anatomy: noise cannot be told from it",
}


@dataclasses.dataclass(frozen=True)
class Treatment:
    """What is done.

    Attributes:
        name: "white", "coloured", or one of `LEFT_ALONE`.
        sigma: of the noise to remove, in the image's units; 0 leaves the image alone.
        psd: its spectrum, as `data_prep.denoise.bm3d.bm3d` takes it; None is white.
    """

    name: str
    sigma: float = 0.0
    psd: np.ndarray | None = None


def treatment(image: np.ndarray, estimate: NoiseEstimate, *, grey_level: float, coloured: bool) -> Treatment:
    """Applies the rule to one image.

    Args:
        image: (height, width), as the denoiser will get it.
        estimate: of its noise.
        grey_level: one of a range of 255, in the image's units.
        coloured: whether the denoiser can be told a spectrum.
    """
    if not {"correlated", "too_few_pixels"} & set(estimate.codes):
        if estimate.sigma < FAINT * grey_level:
            return Treatment("left_faint")
        return Treatment("white", estimate.sigma)
    found = estimate_spectrum(image)
    if found.doubt:
        return Treatment(f"left_{found.doubt}")
    if found.sigma < FAINT * grey_level:
        return Treatment("left_faint")
    if not coloured:
        return Treatment("left_white_only")
    return Treatment("coloured", found.sigma, found.psd)
