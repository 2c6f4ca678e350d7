"""Signal-dependent noise: the generalised Anscombe transform, its exact unbiased inverse, and its parameters.

Detected quanta are Poisson, the read-out adds Gaussian noise: z = gain * p + n, with p ~ Poisson(x) and
n ~ Normal(offset, read_sigma^2). The transform makes the noise's standard deviation one whatever the
signal, a denoiser for white Gaussian noise does its work, and the inverse undoes the transform without its
bias:

  M. Makitalo, A. Foi, "Optimal inversion of the generalized Anscombe transformation for Poisson-Gaussian
  noise", IEEE TIP 22(1), 2013 (the Poisson case: "Optimal inversion of the Anscombe transformation in
  low-count Poisson image denoising", IEEE TIP 20(1), 2011).
"""

import dataclasses
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from scipy import special

from data_prep.denoise.noise import diagonal_detail
from data_prep.denoise.pixels import LARGEST, check_pixels
from osteojax.errors import UserError

# From this many quanta on (read-out variance included) the asymptotic inverse is exact to 1e-4 quanta.
_ASYMPTOTIC_FROM = 1000.0
_TABLE_SIZE = 2048
_QUADRATURE_NODES = 128

_TILE = 16  # pixels; 64 diagonal coefficients a tile
_BINS = 24
_MIN_TILES = 24


@dataclasses.dataclass(frozen=True)
class NoiseModel:
    """Poisson-Gaussian noise: the variance at expected pixel value m is gain * (m - offset) + read_sigma^2.

    Attributes:
        gain: pixel units a quantum, > 0; like the others in what single precision can compute with.
        read_sigma: standard deviation of the signal-independent part, pixel units, >= 0.
        offset: pixel value of zero quanta (the pedestal).
    """

    gain: float
    read_sigma: float = 0.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        # NaN is in no range.
        if not 1 / LARGEST <= self.gain <= LARGEST:
            raise UserError(
                f"Poisson-Gaussian noise: gain must be from {1 / LARGEST:g} to {LARGEST:g}, got {self.gain}"
            )
        if not 0 <= self.read_sigma <= LARGEST:
            raise UserError(
                f"Poisson-Gaussian noise: read_sigma must be from 0 to {LARGEST:g}, got {self.read_sigma}"
            )
        if not abs(self.offset) <= LARGEST:
            raise UserError(
                f"Poisson-Gaussian noise: offset must be within {LARGEST:g} of 0, got {self.offset}"
            )

    def variance(self, mean: np.ndarray) -> np.ndarray:
        """Noise variance at expected pixel values `mean`; no less than the read-out's."""
        return self.gain * np.maximum(mean - self.offset, 0) + self.read_sigma**2


def anscombe(image: np.ndarray, model: NoiseModel) -> np.ndarray:
    """Generalised Anscombe transform (Makitalo and Foi 2013, eq. 3): noise of standard deviation one.

    Args:
        image: any shape, any real dtype, pixel units.
        model: the image's noise.

    Returns:
        float64, same shape: 2 sqrt(max(0, q + 3/8 + s^2)) with q the image and s the read-out noise in quanta.

    Raises:
        UserError: NaN or infinity in the image, or pixels so large that the result overflows.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        quanta = (np.asarray(image, np.float64) - model.offset) / model.gain
        stabilised = 2.0 * np.sqrt(np.maximum(quanta + 0.375 + (model.read_sigma / model.gain) ** 2, 0.0))
    return _finite(stabilised, "Anscombe transform")


def inverse_anscombe(stabilised: np.ndarray, model: NoiseModel) -> np.ndarray:
    """Exact unbiased inverse: the expected pixel value whose transform has the expectation `stabilised`.

    Makitalo and Foi 2013, section III: D = E[anscombe(z)] is computed for a table of expected values by
    numerical integration and inverted by interpolation; beyond the table (1000 quanta, read-out variance
    included) the asymptotic inverse D^2 / 4 - 1 / 8 - s^2 has caught up with it. The algebraic inverse
    D^2 / 4 - 3 / 8 - s^2 is biased, most of all where quanta are few, because E[f(z)] is not f(E[z]).

    Args:
        stabilised: any shape, a denoised `anscombe` image.
        model: the model that `anscombe` was given.

    Returns:
        float64, same shape, pixel units; never below `model.offset`, where values that no expectation reaches
        go.

    Raises:
        UserError: NaN or infinity in the image, or values so large that the result overflows.
    """
    d = np.asarray(stabilised, np.float64)
    s = model.read_sigma / model.gain
    with np.errstate(over="ignore", invalid="ignore"):
        quanta = d**2 / 4 - 1 / 8 - s * s
        if s * s < _ASYMPTOTIC_FROM:
            expectation, value = _inverse_table(s)
            quanta = np.where(d < expectation[-1], np.interp(d, expectation, value), quanta)
        pixels = model.gain * np.maximum(quanta, 0.0) + model.offset
    return _finite(pixels, "inverse Anscombe transform")


def _finite(values: np.ndarray, what: str) -> np.ndarray:
    if not np.isfinite(values).all():
        raise UserError(
            f"{what}: it gives NaN or infinity; pixels must be finite and gain in proportion to them"
        )
    return values


@lru_cache(maxsize=8)
def _inverse_table(s: float) -> tuple[np.ndarray, np.ndarray]:
    """(E[f(z)], x) for x from 0 to `_ASYMPTOTIC_FROM` - s^2 quanta, both increasing."""
    value = np.linspace(0.0, (_ASYMPTOTIC_FROM - s * s) ** 0.5, _TABLE_SIZE) ** 2
    return expected_anscombe(value, s), value


def expected_anscombe(x: np.ndarray, s: float) -> np.ndarray:
    """E[2 sqrt(max(0, p + n + 3/8 + s^2))] for p ~ Poisson(x), n ~ Normal(0, s^2), by quadrature to 1e-9.

    The Gaussian integral is done once for each count and then averaged over the Poisson law of each x.

    Args:
        x: (m,) expected quanta, >= 0.
        s: read-out standard deviation in quanta.

    Returns:
        (m,) float64.
    """
    most = float(np.max(x))
    counts = np.arange(int(most + 12 * most**0.5) + 20)
    at_count = _gaussian_mean_of_root(counts + 0.375 + s * s, s)
    result = np.empty(len(x))
    for start in range(0, len(x), 256):  # in pieces: the matrix of all x and all counts would be large
        part = x[start : start + 256, None]
        log_p = special.xlogy(counts, part) - part - special.gammaln(counts + 1)
        result[start : start + 256] = np.exp(log_p) @ at_count
    return result


def _gaussian_mean_of_root(centre: np.ndarray, s: float) -> np.ndarray:
    """E[2 sqrt(max(0, centre + s * g))] for g ~ Normal(0, 1).

    With the root itself as the variable there is no kink at zero, so that Gauss-Legendre converges fast.
    """
    if s == 0:
        return 2.0 * np.sqrt(centre)
    low = np.sqrt(np.maximum(centre - 9 * s, 0.0))
    high = np.sqrt(centre + 9 * s)
    node, weight = np.polynomial.legendre.leggauss(_QUADRATURE_NODES)
    half = (high - low)[:, None] / 2
    root = low[:, None] + half * (node + 1)
    density = np.exp(-0.5 * ((root**2 - centre[:, None]) / s) ** 2) / (s * (2 * np.pi) ** 0.5)
    return (2 * root * density * 2 * root * weight * half).sum(axis=1)


def fit_noise_model(image: np.ndarray) -> NoiseModel:
    """Fits gain and read-out noise (or pedestal) to one image: robust regression of variance on mean.

    The noise level function is a line, variance = gain * mean + b (Foi, Trimeche, Katkovnik and Egiazarian,
    IEEE TIP 17(10), 2008). Each 16x16 tile gives its mean and the mean square of its diagonal wavelet
    coefficients, which leaves out everything linear in the tile; tiles are grouped by mean, the median of
    each group resists the tiles that hold edges, and the line is fitted with weights for the groups'
    precision and Huber's loss. b >= 0 is read as read-out noise with no pedestal, b < 0 as a pedestal with
    no read-out noise: one image cannot tell the two apart, and the transform depends on b alone.

    Args:
        image: (height, width), raw pixels with no grey-scale curve applied: after a logarithm, gamma or
            window the variance is not linear in the mean any more.

    Returns:
        The model, in the image's units.

    Raises:
        UserError: too little of the image varies, all of it is equally bright, or the variance does not grow
            with brightness (then the noise is not Poisson, and plain Gaussian denoising is right).
    """
    image = np.asarray(image)
    check_pixels(image, "noise model")
    mean, variance = _tile_statistics(image.astype(np.float64))
    if len(mean) < _MIN_TILES:
        raise UserError(
            f"noise model: {len(mean)} tiles of {_TILE}x{_TILE} pixels that vary, at least {_MIN_TILES} are "
            "needed; give gain and read_sigma instead"
        )
    bins = min(_BINS, len(mean) // 6)
    groups = np.array_split(np.argsort(mean), bins)
    m = np.array([mean[g].mean() for g in groups])
    # The median of chi-square means with k = 64 degrees of freedom is (1 - 2 / 9k)^3 of their expectation.
    k = (_TILE // 2) ** 2
    v = np.array([np.median(variance[g]) for g in groups]) / (1 - 2 / (9 * k)) ** 3
    if np.ptp(m) <= 1e-9 * max(abs(m).max(), 1e-300):
        raise UserError(
            "noise model: the image is equally bright everywhere; give gain and read_sigma instead"
        )
    slope, intercept = _huber_line(m, v)
    if slope <= 0:
        raise UserError(
            f"noise model: the variance does not grow with brightness (slope {slope:.3g}), so this is no "
            "Poisson noise; denoise with one sigma, or give gain and read_sigma"
        )
    if intercept >= 0:
        return NoiseModel(gain=slope, read_sigma=intercept**0.5)
    return NoiseModel(gain=slope, offset=-intercept / slope)


def _tile_statistics(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means and noise variances of the tiles that are neither constant nor burnt out."""
    detail = diagonal_detail(image)
    # Coefficient i rests on pixels 2i to 2i + 3: tile t of 16 pixels owns coefficients 8t to 8t + 7.
    rows, columns = detail.shape[0] * 2 // _TILE, detail.shape[1] * 2 // _TILE
    half = _TILE // 2
    pixels = image[: rows * _TILE, : columns * _TILE].reshape(rows, _TILE, columns, _TILE)
    squares = detail[: rows * half, : columns * half].reshape(rows, half, columns, half) ** 2
    varies = pixels.max(axis=(1, 3), initial=-np.inf) > pixels.min(axis=(1, 3), initial=np.inf)
    burnt_out = (pixels == image.max(initial=-np.inf)).mean(axis=(1, 3)) > 0.02
    keep = varies & ~burnt_out
    return pixels.mean(axis=(1, 3))[keep], squares.mean(axis=(1, 3))[keep]


def _huber_line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of y on x for errors proportional to y, by iteratively reweighted least squares."""
    floor = max(1e-3 * np.median(y), 1e-300)
    prediction = y
    for _ in range(30):
        spread = np.maximum(prediction, floor)
        residual = (y - prediction) / spread
        scale = max(1.4826 * float(np.median(np.abs(residual))), 1e-6)
        robust = np.minimum(1.0, 1.345 * scale / np.maximum(np.abs(residual), 1e-300))
        slope, intercept = np.polyfit(x, y, 1, w=robust**0.5 / spread)
        prediction = slope * x + intercept
    return float(slope), float(intercept)


def denoise_poisson_gaussian(
    image: np.ndarray,
    denoiser: Callable[[np.ndarray, float], np.ndarray],
    *,
    gain: float | None = None,
    read_sigma: float = 0.0,
    offset: float = 0.0,
) -> np.ndarray:
    """Denoises an image whose noise grows with its brightness, with a denoiser made for white Gaussian noise.

    Args:
        image: (height, width), raw pixels, any real dtype.
        denoiser: called as denoiser(stabilised, sigma) with a float32 image and its sigma in the image's units;
            `data_prep.denoise.bm3d.bm3d` fits.
        gain: pixel units a quantum; None fits gain, read_sigma and offset to the image (`fit_noise_model`).
        read_sigma: standard deviation of the read-out noise in pixel units; only with a given gain.
        offset: pixel value of zero quanta; only with a given gain.

    Returns:
        float32, same shape, same units.

    Raises:
        UserError: parameters that are no noise model, an image that is not two-dimensional or not finite, one that
            overflows, or one that `fit_noise_model` cannot read.
    """
    image = np.asarray(image)
    check_pixels(image, "Poisson-Gaussian denoising")
    if gain is None:
        if read_sigma != 0.0 or offset != 0.0:
            raise UserError(
                "Poisson-Gaussian denoising: read_sigma and offset need gain; give it, or none of them"
            )
        model = fit_noise_model(image)
    else:
        model = NoiseModel(gain, read_sigma, offset)
    with np.errstate(over="ignore"):
        stabilised = _finite(anscombe(image, model).astype(np.float32), "Poisson-Gaussian denoising")
        result = inverse_anscombe(denoiser(stabilised, 1.0), model).astype(np.float32)
    return _finite(result, "Poisson-Gaussian denoising")
