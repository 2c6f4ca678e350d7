"""The scale on which denoisers see an image: noise of standard deviation one about the middle of the range.

On it no parameter depends on an image's units, and float32 loses nothing to an offset.
"""

from collections.abc import Callable

import numpy as np

from data_prep.denoise.pixels import check_pixels

# Below this share of the image's range sigma is lost in float32, whose relative precision is 6e-8.
_NEGLIGIBLE_SIGMA = 1e-7
# Windows and wavelets want to fit into an image.
_SMALLEST = 32


def denoise_at_unit_noise(
    pixels: np.ndarray, sigma: float, denoise: Callable[[np.ndarray], np.ndarray], what: str
) -> np.ndarray:
    """What `denoise` makes of the image on that scale, put back into the image's units.

    Args:
        pixels: float32 (height, width).
        sigma: standard deviation of the noise in their units, at least 0; 0, and what is lost beside the range of the
            pixels, leaves the image alone.
        denoise: of a float64 image whose noise has standard deviation 1, 32 pixels or more each way: smaller ones come
            with their mirror images. Any real dtype comes back.
        what: is being done, for messages.

    Returns:
        float32 (height, width).

    Raises:
        UserError: pixels that cannot be computed with (`data_prep.denoise.pixels`).
    """
    noise = visible_noise(pixels, sigma, what)
    if noise is None:
        return pixels
    middle, _ = noise
    height, width = pixels.shape
    padded = np.pad(pixels, [(0, max(0, _SMALLEST - side)) for side in pixels.shape], mode="symmetric")
    clean = denoise((padded.astype(np.float64) - middle) / sigma)[:height, :width]
    return (clean * sigma + middle).astype(np.float32)


def visible_noise(pixels: np.ndarray, sigma: float, what: str) -> tuple[float, float] | None:
    """The middle and the extent of the range of the pixels; None where their noise is none that can be removed.

    Raises:
        UserError: as of `denoise_at_unit_noise`.
    """
    low, high = check_pixels(pixels, what)
    if low == high or sigma <= _NEGLIGIBLE_SIGMA * (high - low):
        return None
    return low + (high - low) / 2, high - low
