"""Sigma of white Gaussian noise from raw pixels, with warnings where no estimator is right.

Two estimators that look at different parts of the spectrum, over the pixels that carry noise at all: exactly
constant areas (collimation, padding, burnt-out air) and neighbourhoods where the range has cut the noise off
are left out of both.
"""

import dataclasses

import cv2
import numpy as np
import scipy.fft

from data_prep.denoise.pixels import check_pixels

# Daubechies-2 high-pass filter: orthonormal, so that white noise keeps its sigma; two vanishing moments, so
# that linear grey ramps leave no trace.
_SQRT3 = 3.0**0.5
_DB2_HIGHPASS = np.array([1 - _SQRT3, _SQRT3 - 3, 3 + _SQRT3, -1 - _SQRT3], np.float32) / np.float32(
    4 * 2**0.5
)
_NORMAL_MAD = 0.6744897501960817  # median |z| of a standard normal

_FLAT_WINDOW = 5  # pixels; an exactly constant window of this size is no detector's noise
_CLIP_WINDOW = 17  # pixels over which the local share of clipped pixels is taken
_CLIP_LOCAL = 0.005  # above it the surviving noise is visibly truncated (2.6 sigma from the limit)
# Larger images are sampled, in bands of so many rows.
_SAMPLE_PIXELS, _BAND_ROWS = 16 * 2**20, 256
_CLIP_WARN = 0.001  # share of the non-constant pixels that sit at one end of the range
_PSD_WARN = 1.12  # psd_ratio of real spectra that are as good as flat, before the allowance for chance
_PSD_CHANCE = (
    16.0  # / sqrt(spectral values): 99th percentile of psd_ratio - 1 on white noise, 16x16 to 512x512
)
_MIN_COEFFICIENTS = 64  # the MAD's standard error is then about 15 %


@dataclasses.dataclass(frozen=True)
class NoiseWarning:
    """Why an estimate should not be believed: `code` for machines (`manifest.csv`), `text` for people."""

    code: str
    text: str


@dataclasses.dataclass(frozen=True)
class NoiseEstimate:
    """What `estimate_sigma` found. Sigmas are in the image's units.

    Attributes:
        sigma: wavelet MAD estimate; 0 where nothing could be measured (a warning then says so).
        sigma_psd: estimate from the high-frequency power spectrum; None where no tile was usable.
        psd_ratio: loudest over quietest high-frequency sector of the noise, as a ratio of standard deviations;
            1 is white; None where no tile was usable.
        clipped_low, clipped_high: shares of the non-constant pixels that sit at the minimum and the maximum.
        used_fraction: share of the pixels that the estimates rest on.
        warnings: empty where the assumptions of the estimators hold.
    """

    sigma: float
    sigma_psd: float | None
    psd_ratio: float | None
    clipped_low: float
    clipped_high: float
    used_fraction: float
    warnings: tuple[NoiseWarning, ...]

    @property
    def codes(self) -> tuple[str, ...]:
        """The warnings' codes, as `manifest.csv` records them."""
        return tuple(w.code for w in self.warnings)


def estimate_sigma(image: np.ndarray) -> NoiseEstimate:
    """Estimates the standard deviation of additive white Gaussian noise in one greyscale image.

    `sigma` is the median absolute deviation of the finest diagonal wavelet band over 0.6745 (Donoho and
    Johnstone, Biometrika 81(3), 1994; db2, as `skimage.restoration.estimate_sigma`). `sigma_psd` is the root
    of the mean periodogram above 0.35 cycles per pixel, median over Hann-windowed 32x32 tiles.

    Known biases (`python benchmarks/noise.py` prints them, `docs/noise.md` keeps the table):
      * Fine texture counts as noise: both read high, the PSD estimate more, because its band reaches lower.
      * Noise whose variance follows the signal (Poisson) has no single sigma: both give about the median over
        the image. See `data_prep.denoise.anscombe`.
      * Correlated noise: blur and resampling take high frequencies away, so both read low, by a factor of
        three or more for a blur of 0.7 pixels; sharpening makes both read high. JPEG moves them either way,
        and where the noise is strong against its quantisation that is not noticed. Warned of as `correlated`;
        so is an image with hardly any noise, whose spectrum is that of its texture.
      * Clipping narrows the noise near the ends of the range. Neighbourhoods where it happens are left out;
        where nearly all of the image is affected both read low. Warned of as `clipped`.
      * 8-bit rounding adds a variance of 1/12 squared grey level; below half a level rounding dominates.

    Args:
        image: (height, width), any real dtype, from 1x1 up; in a range that float32 can compute with.

    Returns:
        The estimate; warning codes are `clipped`, `correlated` and `too_few_pixels`.

    Raises:
        UserError: the image is not two-dimensional, is empty, not real, or holds NaN, infinity or what overflows.
    """
    image = np.asarray(image)
    check_pixels(image, "noise estimation")
    image = sample(image)
    x, lo, hi = to_unit_range(image)
    textured, whole, clipped_low, clipped_high = noisy_pixels(x)
    # With (almost) nothing outside the clipped areas a low reading is better than a handful of pixels.
    enough = whole.sum() > max(0.02 * textured.sum(), 16 * _MIN_COEFFICIENTS)
    usable = whole if enough else textured

    coefficients = diagonal_detail(x)[_all_inside(usable)]
    sigma = float(np.median(np.abs(coefficients))) / _NORMAL_MAD if coefficients.size else 0.0
    sigma_psd, psd_ratio, psd_limit = _spectral(x, usable)

    warnings = []
    if max(clipped_low, clipped_high) > _CLIP_WARN:
        warnings.append(
            NoiseWarning(
                "clipped",
                f"{clipped_low:.1%} of the non-constant pixels sit at the minimum ({lo:g}) and "
                f"{clipped_high:.1%} at the maximum ({hi:g}): the noise is cut off there",
            )
        )
    if psd_ratio is not None and psd_ratio > psd_limit:
        warnings.append(
            NoiseWarning(
                "correlated",
                f"the noise spectrum is not flat (standard deviations differ by {psd_ratio:.2f}x): blur, "
                "resampling, compression or sharpening; sigma is then no measure of the noise",
            )
        )
    if coefficients.size < _MIN_COEFFICIENTS:
        warnings.append(
            NoiseWarning(
                "too_few_pixels", f"only {coefficients.size} wavelet coefficients are free of constants"
            )
        )
    scale = float(hi - lo)
    return NoiseEstimate(
        sigma=sigma * scale,
        sigma_psd=None if sigma_psd is None else sigma_psd * scale,
        psd_ratio=psd_ratio,
        clipped_low=clipped_low,
        clipped_high=clipped_high,
        used_fraction=float(usable.mean()),
        warnings=tuple(warnings),
    )


def noisy_pixels(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Where an image carries noise at all, and where all of it.

    Args:
        x: float32 (height, width), from 0 to 1, both reached.

    Returns:
        textured: bool (height, width), pixels of no constant area.
        whole: those of them around which the range has not cut the noise off.
        clipped_low, clipped_high: shares of the textured pixels that sit at 0 and at 1.
    """
    textured = ~_flat(x)
    low, high = (x == 0) & textured, (x == 1) & textured
    total = max(int(textured.sum()), 1)
    clipped_low, clipped_high = _excess(x, low) / total, _excess(1 - x, high) / total
    if max(clipped_low, clipped_high) <= _CLIP_WARN:
        return textured, textured, clipped_low, clipped_high
    window, clipped = (_CLIP_WINDOW, _CLIP_WINDOW), (low | high).view(np.uint8)
    near = cv2.boxFilter(clipped, cv2.CV_32F, window, borderType=cv2.BORDER_REFLECT) > _CLIP_LOCAL
    return textured, textured & ~near, clipped_low, clipped_high


def to_unit_range(image: np.ndarray) -> tuple[np.ndarray, float, float]:
    """The image on [0, 1] as float32, exact enough for any offset and any scale; its minimum and its maximum."""
    low, high = float(image.min()), float(image.max())
    x = np.subtract(image, low, dtype=np.float64) / ((high - low) or 1.0)
    return x.astype(np.float32), low, high


def sample(image: np.ndarray) -> np.ndarray:
    """The image, or of a very large one bands of rows spread evenly over it: it has pixels enough.

    The seams between the bands are one row in `_BAND_ROWS`, which no median notices, and no quiet tile lies on.
    """
    if image.size <= _SAMPLE_PIXELS:
        return image
    bands = [image[top : top + _BAND_ROWS] for top in range(0, len(image), _BAND_ROWS)]
    kept = max(1, _SAMPLE_PIXELS // (_BAND_ROWS * image.shape[1]))
    return np.concatenate([bands[len(bands) * k // kept] for k in range(kept)])


def _flat(x: np.ndarray) -> np.ndarray:
    """Pixels that belong to an exactly constant window; a one-pixel rim around such areas goes with them."""
    # OpenCV's filters, which are those of scipy to the bit and take a fiftieth of the time.
    window, wider = (np.ones((side, side), np.uint8) for side in (_FLAT_WINDOW, _FLAT_WINDOW + 2))
    constant = cv2.dilate(x, window) == cv2.erode(x, window)
    return cv2.dilate(constant.view(np.uint8), wider).view(bool)


def _excess(distance: np.ndarray, at_limit: np.ndarray) -> int:
    """Pixels at a limit beyond those that an unclipped histogram would put there.

    The tail of an unclipped histogram thins out towards its end; a limit that cuts through it piles up.
    For integer-valued pixels the next grey level says how many are to be expected, for continuous ones it
    holds one.
    """
    count = int(at_limit.sum())
    if count <= 1:
        return 0
    beyond = distance[distance > 0]
    if beyond.size == 0:
        return count
    return max(count - int((beyond == beyond.min()).sum()), 0)


def diagonal_detail(x: np.ndarray) -> np.ndarray:
    """Finest diagonal (HH) db2 wavelet coefficients whose support lies wholly inside the image.

    Args:
        x: (height, width), floating point.

    Returns:
        (max(0, height // 2 - 1), max(0, width // 2 - 1)) of x's dtype; coefficient (i, j) rests on the 4x4
        pixels from (2i, 2j). White noise keeps its standard deviation.
    """
    for _ in range(2):
        n = max(0, x.shape[0] // 2 - 1)
        rows = (g * x[j : j + 2 * n : 2][:n] for j, g in enumerate(_DB2_HIGHPASS))
        x = sum(rows, start=np.zeros((n, x.shape[1]), x.dtype)).T
    return x


def _all_inside(usable: np.ndarray) -> np.ndarray:
    """Which coefficients of `diagonal_detail` rest on usable pixels only."""
    for _ in range(2):
        n = max(0, usable.shape[0] // 2 - 1)
        usable = np.logical_and.reduce([usable[j : j + 2 * n : 2][:n] for j in range(4)]).T
    return usable


def _spectral(x: np.ndarray, usable: np.ndarray) -> tuple[float | None, float | None, float]:
    """Sigma from the high-frequency power spectrum, how far from flat that is, and when to warn."""
    size = min(32, 2 ** int(np.log2(min(x.shape))))
    if size < 16:
        return None, None, np.inf
    tiles = _tiles(x, size)[_tiles(usable, size).all(axis=(1, 2))]
    if tiles.shape[0] == 0:
        return None, None, np.inf
    window = np.outer(*2 * [np.hanning(size + 2)[1:-1]]).astype(np.float32)
    tiles = tiles - tiles.mean(axis=(1, 2), keepdims=True)
    power = np.abs(scipy.fft.rfft2(tiles * window)) ** 2 / (window**2).sum()
    fy, fx = np.abs(np.fft.fftfreq(size))[:, None], np.fft.rfftfreq(size)[None, :]
    radius = np.hypot(fy, fx)
    sigma = float(np.median(power[:, radius >= 0.35].mean(axis=1))) ** 0.5

    # What is left of the anatomy in the smoothest quarter of the tiles is weakest: there the spectrum is the
    # noise's, except at low frequencies, where anatomy can only add: that band counts only if too quiet.
    structure = power[:, (radius > 0) & (radius < 0.1)].mean(axis=1)
    smooth = power[structure <= np.quantile(structure, 0.25)]
    low_band = (radius >= 0.1) & (radius < 0.2)
    high_bands = (
        (fy >= 0.3) & (fx >= 0.3),
        (fy >= 0.3) & (fx < 0.2),
        (fy < 0.2) & (fx >= 0.3),
        (radius >= 0.25) & (radius < 0.35),
    )
    levels = [float(np.median(smooth[:, band].mean(axis=1))) for band in (*high_bands, low_band)]
    loudest, quietest = max(levels[:-1]), min(levels)
    if loudest == 0:
        return sigma, None, np.inf
    ratio = (loudest / max(quietest, 1e-6 * loudest)) ** 0.5
    return sigma, ratio, _PSD_WARN + _PSD_CHANCE / (len(smooth) ** 0.5 * size)


def _tiles(x: np.ndarray, size: int) -> np.ndarray:
    rows, columns = x.shape[0] // size, x.shape[1] // size
    cropped = x[: rows * size, : columns * size]
    return cropped.reshape(rows, size, columns, size).swapaxes(1, 2).reshape(-1, size, size)
