"""The power spectrum of one image's noise, read from its quietest tiles, and whether it is noise that they hold.

Nothing in a single picture says which part of it is noise. Three things set noise apart from bone: it depends on
nothing but brightness, so that quiet tiles agree; its spectrum has a plateau towards low frequencies, where that of
anatomy goes on rising; and there are tiles that hold little else. Where one of them fails the answer is that the noise
is not known.
"""

import dataclasses

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy import special

from data_prep.denoise.noise import noisy_pixels, sample, to_unit_range
from data_prep.denoise.pixels import check_pixels

TILE = 32  # pixels
GRID = 2 * TILE  # of the spectrum: zeros around a tile keep its ends from touching
_STRIDE = TILE // 2
_QUIET = 0.25  # share of the tiles that is measured
_FEWEST, _MOST = 12, 1024  # tiles that are measured
_ALIKE, _LEVELS = 16, 12  # tiles of about one brightness that are compared, and the most such groups
_MIRRORED = 2  # ordinates that are averaged before the median over tiles: a frequency and its mirror image

# Cycles per pixel. Below the first band is what anatomy and the fitted polynomial leave of the noise: nothing to go by.
_BANDS = ((0.11, 0.19), (0.19, 0.28), (0.28, 0.39), (0.39, 0.50))
_LOWEST = (0.11, 0.15)
# Hann-windowed ordinates of a tile share noise: so many of its frequencies are worth one (sum of the squared
# correlations of neighbours in both directions), and those of a real image come in pairs.
_FREQUENCIES_PER_ORDINATE = 2 * 1.944**2

# `python benchmarks/real_films.py truth`: clean pictures disagree by 1.5 and more, noise of 10 grey levels by less than
# 1.3. Real films lie on both sides; what is grain in them and what is bone nobody knows.
_DISAGREEMENT = 1.3
_RISE = 1.25
# A stationary Gaussian texture is noise to any statistic. What falls faster than white noise blurred by 1.1 pixels does
# (3.9, from 0.24 to 0.34 cycles a pixel) is taken for anatomy: no detector's noise is as smooth.
_FALL = 4.0


@dataclasses.dataclass(frozen=True)
class NoiseSpectrum:
    """What `estimate_spectrum` found.

    Attributes:
        sigma: standard deviation of the noise, in the image's units.
        psd: float64 (GRID, GRID), power by frequency in the order of `numpy.fft.fft2`, with a mean of 1.
        tiles: how many it rests on.
        disagreement: in the bands from 0.19, 0.28 and 0.39 cycles a pixel: how much more equally bright tiles differ in
            power than chance would have it; 1 is chance.
        doubt: why it is not known to be noise: "few_tiles", "uneven" or "texture"; None where it is known.
    """

    sigma: float
    psd: np.ndarray
    tiles: int
    disagreement: tuple[float, ...]
    doubt: str | None


def estimate_spectrum(image: np.ndarray) -> NoiseSpectrum:
    """Reads the power spectrum of stationary additive noise from one greyscale image.

    Tiles of 32x32 pixels, none of them constant or clipped, are freed of their quadratic trend. Of these the quarter
    with the quietest neighbours is taken: a tile is judged by the loudest of the tiles beside it, not by itself, so
    that what is measured was not chosen for being low. The spectrum is the median of their Hann-windowed periodograms,
    divided by what the median of such ordinates is of their mean.

    It is believed from the lowest band on in which, and above which, tiles that are equally bright agree: in two
    neighbouring ones, or in the highest. Where they agree in the lower two it must not rise more towards low
    frequencies than it falls towards high ones, or by a quarter. Below the believed bands anatomy adds to it, and it is
    held to what blur by a Gaussian makes of them: from 0 to 0.24 cycles a pixel that falls as much as from there to
    0.34. Noise with more power there is underestimated, and so is noise that is louder where the image is brighter.

    Args:
        image: (height, width), any real dtype, in a range that float32 can compute with; of a very large one bands of
            rows are looked at.

    Returns:
        The spectrum; where `doubt` says something it is no measure of noise.

    Raises:
        UserError: the image is not two-dimensional, is empty, not real, or holds NaN, infinity or what overflows.
    """
    image = np.asarray(image)
    check_pixels(image, "noise estimation")
    x, low, high = to_unit_range(sample(image))
    tiles, brightness = _quiet_tiles(x, noisy_pixels(x)[1])
    if len(tiles) < _FEWEST:
        return NoiseSpectrum(0.0, np.ones((GRID, GRID)), len(tiles), (), "few_tiles")
    power = _power(tiles)
    psd = np.median(power, axis=0) * (_MIRRORED / special.gammaincinv(_MIRRORED, 0.5))
    radius = np.hypot(*np.meshgrid(*2 * [np.fft.fftfreq(GRID)]))
    psd[radius < _LOWEST[0]] = psd[_within(radius, _LOWEST)].mean()
    bands = [power[:, _within(radius, band)].mean(axis=1) for band in _BANDS]
    levels = [max(float(np.median(band)) ** 0.5, 1e-30) for band in bands]
    alike = np.array_split(np.argsort(brightness), min(max(len(tiles) // _ALIKE, 1), _LEVELS))
    differ = [np.inf, *(_disagreement(b, r, alike) for b, r in zip(bands[1:], _BANDS[1:], strict=True))]
    agree = [d <= _DISAGREEMENT for d in differ]

    doubt, first = None, 1
    if agree[1] and agree[2]:
        fall = max(levels[1] / levels[2], 1.0)
        if levels[0] / levels[1] > max(fall, _RISE):
            doubt = "texture"
    elif agree[2] and agree[3]:
        first, fall = 2, max(levels[2] / levels[3], 1.0)
    elif agree[3]:
        first, fall = 3, 1.0
    else:
        doubt, fall = "uneven", 1.0
    if fall > _FALL:
        doubt = "texture"
    below = radius < _BANDS[first][0]
    psd[below] = np.minimum(psd[below], (levels[first] * fall) ** 2)
    variance = float(psd.mean())
    return NoiseSpectrum(
        variance**0.5 * (high - low), psd / (variance or 1.0), len(tiles), tuple(differ[1:]), doubt
    )


def _power(tiles: np.ndarray) -> np.ndarray:
    """Hann-windowed periodograms of tiles, averaged over mirror images: float32 (n, GRID, GRID)."""
    window = np.outer(*2 * [np.hanning(TILE + 2)[1:-1]])
    power = np.empty((len(tiles), GRID, GRID), np.float32)
    for tile, out in zip(tiles, power, strict=True):  # one by one: complex doubles of all would be 70 MB
        own = np.abs(np.fft.fft2(tile * window, (GRID, GRID))) ** 2 / (window**2).sum()
        out[:] = (own + np.roll(own[:, ::-1], 1, axis=1)) / 2
    return power


def _within(radius: np.ndarray, band: tuple[float, float]) -> np.ndarray:
    return (radius >= band[0]) & (radius < band[1])


def _disagreement(power: np.ndarray, band: tuple[float, float], alike: list[np.ndarray]) -> float:
    """Spread of the tiles' power in a band, (tiles,), over that of noise that is the same in all equally bright ones.

    `alike` are the indices of such tiles, group by group.
    """
    power = power.copy()
    for group in alike:
        power[group] /= max(float(np.median(power[group])), 1e-30)
    ordinates = np.pi * (band[1] ** 2 - band[0] ** 2) * TILE**2 / _FREQUENCIES_PER_ORDINATE
    lower, middle, upper = special.gammaincinv(ordinates, (0.25, 0.5, 0.75))
    first, third = np.percentile(power, (25, 75))
    return float((third - first) / ((upper - lower) / middle))


def _quiet_tiles(x: np.ndarray, whole: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The tiles with the quietest neighbours, float64 (n, TILE, TILE) less their quadratic trend, and their means."""
    if min(x.shape) < TILE:
        return np.empty((0, TILE, TILE)), np.empty(0)
    tiles = sliding_window_view(x, (TILE, TILE))[::_STRIDE, ::_STRIDE]
    usable = sliding_window_view(whole, (TILE, TILE))[::_STRIDE, ::_STRIDE]
    trend = _trend()
    # Row by row: all tiles of a radiograph at once would be four times its size in doubles.
    variance = np.stack(
        [np.where(u.all(axis=(1, 2)), _without(t, trend).var(axis=(1, 2)), np.inf)
         for t, u in zip(tiles, usable, strict=True)]
    )  # fmt: skip
    # Beside a tile is what shares no pixel with it.
    apart = TILE // _STRIDE
    framed = np.pad(variance, apart, constant_values=np.nan)
    height, width = variance.shape
    beside = np.stack(
        [
            framed[apart + dy :, apart + dx :][:height, :width]
            for dy, dx in ((-apart, 0), (apart, 0), (0, -apart), (0, apart))
        ]
    )
    beside[np.isinf(beside)] = np.nan
    judged = np.isfinite(variance) & (np.isfinite(beside).sum(axis=0) >= 2)
    loudness = np.where(judged, np.where(np.isfinite(beside), beside, -np.inf).max(axis=0), np.inf)
    quiet = min(max(int(_QUIET * judged.sum()), _FEWEST), int(judged.sum()))
    chosen = np.argsort(loudness, axis=None, kind="stable")[:quiet]
    if len(chosen) > _MOST:
        chosen = chosen[np.linspace(0, len(chosen) - 1, _MOST).astype(int)]
    found = tiles[np.unravel_index(chosen, loudness.shape)]
    return _without(found, trend), found.mean(axis=(1, 2))


def _trend() -> np.ndarray:
    """Orthonormal quadratic polynomials over a tile, (pixels, 6)."""
    y, x = np.mgrid[:TILE, :TILE] / TILE - 0.5
    return np.linalg.qr(np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1).reshape(-1, 6))[0]


def _without(tiles: np.ndarray, trend: np.ndarray) -> np.ndarray:
    """Tiles (n, TILE, TILE) less their projections on the trend."""
    flat = tiles.reshape(len(tiles), TILE * TILE).astype(np.float64)
    return (flat - (flat @ trend) @ trend.T).reshape(tiles.shape)
