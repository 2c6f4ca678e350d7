"""What every denoiser and every estimate of noise asks of an image: that single precision can compute with it."""

import numpy as np

from osteojax.errors import UserError

# Pixels up to here leave room for differences and overshoot below float32's 3.4e38.
LARGEST = 1e37
# Of pixels that differ by less than this, what is left after division by their noise is subnormal.
SMALLEST_RANGE = 1e-30


def check_pixels(image: np.ndarray, what: str) -> tuple[float, float]:
    """The lowest and the highest pixel of an image that can be computed with.

    Args:
        image: to be (height, width), any real dtype.
        what: is going to be done with it; messages begin with this.

    Returns:
        (low, high): finite, no more than `LARGEST` from 0, and either equal or at least `SMALLEST_RANGE` apart.

    Raises:
        UserError: the image is not of that kind; the message says what is wrong and where.
    """
    if image.ndim != 2 or image.size == 0:
        raise UserError(
            f"{what}: expected a greyscale image (height, width) with pixels in it, got shape {image.shape}; "
            "reduce colour to luminance first"
        )
    if image.dtype.kind not in "biuf":
        raise UserError(f"{what}: expected real pixel values, got dtype {image.dtype}")
    low, high = float(image.min()), float(image.max())  # NaN propagates through both
    if low >= -LARGEST and high <= LARGEST:
        if 0 < high - low < SMALLEST_RANGE:
            raise UserError(
                f"{what}: the pixels differ by {high - low:.3g} at most, which single precision loses; "
                "scale the image up"
            )
        return low, high
    bad = ~np.isfinite(image)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise UserError(
            f"{what}: {np.count_nonzero(bad)} of {image.size} pixels are NaN or infinite, the first at row {row}, "
            f"column {column}; replace them first"
        )
    raise UserError(
        f"{what}: the pixels go from {low:.3g} to {high:.3g}, and single precision overflows; scale the image down"
    )
