"""The `bm3d` package's own normal profile, as a reference to compare with.

Its binaries are closed and its licence forbids commercial use: it is an extra, never a default.
"""

import numpy as np

from data_prep.denoise.bm3d.profiles import Profile
from osteojax.errors import UserError

# The package ends the interpreter on an 8x8 image; nothing states from which size on it is safe.
_SMALLEST = 16


def denoise(z: np.ndarray, profile: Profile) -> np.ndarray:
    """The package's profile `np` on an image whose noise has standard deviation 1, with one thread.

    With more threads the package aborts when it is itself called from a thread, and its result varies.

    Args:
        z: float32 (height, width), finite, at least 16 pixels each way.
        profile: not looked at: the package brings its own parameters.

    Returns:
        float32 (height, width).

    Raises:
        UserError: the package is not installed, or the image is too small for it.
    """
    try:
        import bm3d
    except ImportError as error:
        raise UserError(
            "BM3D backend 'package' needs the bm3d package: pip install 'osteojax[bm3d]' (x86-64 only, "
            "non-commercial licence), or choose the backend 'numba'"
        ) from error
    if min(z.shape) < _SMALLEST:
        raise UserError(
            f"BM3D backend 'package' ends the interpreter on images below {_SMALLEST}x{_SMALLEST}; "
            f"this one is {z.shape[0]}x{z.shape[1]}. Choose the backend 'numba'"
        )
    # The package's thresholds are made for images in [0, 1].
    low, span = float(z.min()), float(np.ptp(z)) or 1.0
    settings = bm3d.BM3DProfile()
    settings.num_threads = 1
    clean = bm3d.bm3d((z.astype(np.float64) - low) / span, 1 / span, settings)
    return (clean.reshape(z.shape) * span + low).astype(np.float32)
