"""BM3D: image denoising by sparse 3-D transform-domain collaborative filtering, in greyscale.

Written from Dabov, Foi, Katkovnik, Egiazarian, IEEE TIP 16(8), 2007, and its published parameters.
"""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from jaxtyping import Float32

from data_prep.denoise.bm3d.coloured import WHITE, autocovariance
from data_prep.denoise.bm3d.profiles import BOUNDED, FAST, FASTER, NP, PROFILES, Profile, Stage
from data_prep.denoise.bm3d.regions import regions_of
from data_prep.denoise.bm3d.strips import strips_of
from data_prep.denoise.pixels import LARGEST
from data_prep.denoise.unit_noise import visible_noise
from osteojax.errors import UserError

__all__ = ["BOUNDED", "FAST", "FASTER", "NP", "PROFILES", "Profile", "Stage", "bm3d"]


def bm3d(
    image: np.ndarray,
    sigma: float,
    *,
    psd: np.ndarray | None = None,
    profile: str | Profile = "fast",
    backend: str = "numba",
) -> Float32[np.ndarray, "height width"]:
    """Removes additive Gaussian noise, white or of a given spectrum, from a greyscale image.

    Adding a constant to the image adds it to the result; scaling image and sigma together scales the result.

    Args:
        image: (height, width), any real dtype, any range that float32 can compute with
            (`data_prep.denoise.pixels`), any size from 1x1 up, any memory layout. A side shorter than a block is
            extended by reflection while filtering.
        sigma: the noise's standard deviation, in the units of the image, at least 0. 0 returns the image.
        psd: the noise's power by frequency, in the order of `numpy.fft.fft2`, on any grid from 16x16 up; only its shape
            counts, since sigma says how strong the noise is. None, or a flat one, is white noise. Backend "numba" only.
        profile: "np" (the paper's normal profile), "fast" (the default for data preparation), "faster", "bounded" (np
            within regions, backend "numba" only), or a `Profile`. The backend "package" has its own parameters instead.
        backend: "numba" (this package, on the CPU), "jax" (this package, on any of JAX's devices) or
            "package" (the `bm3d` package's own `np`, as a reference; closed and not for commercial use).

    Returns:
        float32 array of the image's shape.

    Raises:
        UserError: not a 2-D real array, empty, NaN or infinity in it, pixels or a sigma that overflow in float32, a
            bad sigma, spectrum, profile or backend, or a backend whose package is not installed or that knows white
            noise only.
    """
    image = np.asarray(image)
    noise = visible_noise(image, sigma, "BM3D")
    if not 0 <= sigma <= LARGEST:  # NaN is neither
        raise UserError(
            f"BM3D needs a sigma from 0 to {LARGEST:g} in the image's units, not {sigma}; scale it and the image"
        )
    if isinstance(profile, str):
        if profile not in PROFILES:
            raise UserError(f"BM3D: unknown profile {profile!r}; choose one of {', '.join(PROFILES)}")
        profile = PROFILES[profile]

    colour = WHITE if psd is None else autocovariance(psd)
    if colour is not WHITE and backend != "numba":
        raise UserError(
            f"BM3D backend {backend!r} knows white noise only; choose 'numba' for a noise spectrum"
        )

    if profile.regions > 1 and backend != "numba":
        raise UserError(
            f"BM3D backend {backend!r} does not know the regions of profile {profile.name!r}; choose 'numba'"
        )

    denoise: Callable[..., np.ndarray]
    if backend == "numba":
        from data_prep.denoise.bm3d import numba_backend

        denoise = partial(numba_backend.denoise, autocovariance=colour)
    elif backend == "jax":
        from data_prep.denoise.bm3d import jax_backend

        denoise = jax_backend.denoise
    elif backend == "package":
        from data_prep.denoise.bm3d import package_backend

        denoise = package_backend.denoise
    else:
        raise UserError(f"BM3D: unknown backend {backend!r}; choose 'numba', 'jax' or 'package'")

    if noise is None:
        return image.astype(np.float32)
    # Backends see noise of standard deviation 1 about the middle of the range, so that no parameter depends
    # on the units and float32 loses nothing to an offset. A constant image is exactly 0.
    middle, _ = noise

    def filtered(image: np.ndarray, regions: np.ndarray | None = None) -> np.ndarray:
        missing = [(0, _missing(n, profile)) for n in image.shape]
        padded = np.pad(image, missing, mode="symmetric")
        normalised = np.empty(padded.shape, np.float32)
        # In double precision, but piece by piece: a whole radiograph of doubles would be the most memory used.
        np.subtract(padded, middle, out=normalised, dtype=np.float64, casting="same_kind")
        del padded
        normalised /= np.float32(sigma)
        where = {} if regions is None else {"regions": np.pad(regions, missing, mode="symmetric")}
        clean = denoise(normalised, profile, **where)[: image.shape[0], : image.shape[1]] * np.float32(sigma)
        return np.add(clean, middle, out=clean, dtype=np.float64, casting="same_kind")

    if backend != "numba":  # its memory grows with the image
        return filtered(image)
    regions = None
    if profile.regions > 1:
        regions = regions_of(bm3d(image, sigma, psd=psd, profile=FASTER), profile.regions)
    result = np.empty(image.shape, np.float32)
    height, width = image.shape
    for strip in strips_of(height, width, profile):
        kept = slice(strip.first - strip.top, strip.end - strip.top)
        seen = slice(strip.top, strip.bottom)
        own = None if regions is None else regions[seen]
        result[strip.first : strip.end] = filtered(image[seen], own)[kept]
    return result


def _missing(size: int, profile: Profile) -> int:
    """Pixels to append so that blocks at multiples of both stages' steps cover the side, and one at least."""
    block = max(profile.hard.block_size, profile.wiener.block_size)
    steps = math.lcm(profile.hard.step, profile.wiener.step)
    return block - size if size < block else (block - size) % steps
