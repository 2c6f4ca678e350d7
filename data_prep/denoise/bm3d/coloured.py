"""The colour of noise as BM3D uses it: the autocovariance behind a power spectrum, and who shares too much of it.

K. Dabov, A. Foi, V. Katkovnik, K. Egiazarian, "Image restoration by sparse 3D transform-domain collaborative
filtering", SPIE 6812, 2008, put the spectrum into thresholds and gains; Y. Makinen, L. Azzari, A. Foi, "Collaborative
filtering of correlated noise", IEEE TIP 29, 2020, made the variances exact and kept the matching of blocks off the
noise.
"""

import numpy as np

from osteojax.errors import UserError

SMALLEST_GRID = 16  # of a spectrum: two blocks of 8 pixels, so that lags within a block are told apart

# Distances at which noise is no longer said to be shared, in units of its variance.
_NEGLIGIBLE = 1e-3
# White noise that every other is taken to hold, as a share of its variance: what a spectrum calls silent is so only
# up to rounding.
_FLOOR = 1e-3
# Blocks that share more than this of each other's noise do not join a group for being near.
_ALIKE = 0.1

WHITE = np.ones((1, 1))  # the autocovariance of white noise


def autocovariance(psd: np.ndarray) -> np.ndarray:
    """The autocovariance of noise of variance 1 with the shape of a power spectrum.

    Averaged over mirror images, (m, n) with (m, -n): the variance of a block's coefficients depends on nothing else,
    because the rows of a separable transform have even autocorrelations. Of two overlapping blocks noise that runs
    along a diagonal shares more, or less, than this.

    Args:
        psd: (rows, columns), at least `SMALLEST_GRID` each, finite, >= 0 and not all 0: power by frequency in the order
            of `numpy.fft.fft2`, in any unit.

    Returns:
        float64 (lags, lags), r[m, n] at a distance of (m, n) pixels, r[0, 0] = 1; `WHITE` of a flat spectrum.

    Raises:
        UserError: no such spectrum.
    """
    psd = np.asarray(psd, np.float64)
    if psd.ndim != 2 or min(psd.shape) < SMALLEST_GRID:
        raise UserError(
            f"BM3D: a noise spectrum has at least {SMALLEST_GRID}x{SMALLEST_GRID} frequencies, not {psd.shape}"
        )
    if not (np.isfinite(psd).all() and psd.min() >= 0 and psd.max() > 0):
        raise UserError("BM3D: a noise spectrum must be finite and >= 0, and not 0 everywhere")
    if psd.min() == psd.max():
        return WHITE
    shape = psd / psd.max()
    shape = (shape / shape.mean() + _FLOOR) / (1 + _FLOOR)
    r = np.fft.ifft2(shape).real
    r = (r + np.roll(r[:, ::-1], 1, axis=1)) / 2
    # Beyond half the grid the other way round is shorter.
    half = (min(psd.shape) + 1) // 2
    r = r[:half, :half]
    heard = np.flatnonzero((np.abs(r) > _NEGLIGIBLE).any(axis=0) | (np.abs(r) > _NEGLIGIBLE).any(axis=1))
    return r[: heard[-1] + 1, : heard[-1] + 1]


def unlike(offsets: np.ndarray, autocovariance: np.ndarray) -> np.ndarray:
    """The candidates whose noise is another than the reference block's, and that block itself.

    Two blocks that share noise look near for it, and a group of them would keep it.

    Args:
        offsets: int64 (n, 2), as of `Stage.offsets`, the reference block first.
        autocovariance: of the noise.
    """
    dy, dx = np.abs(offsets).T
    lags = len(autocovariance)
    near = (dy < lags) & (dx < lags)
    shared = np.zeros(len(offsets))
    shared[near] = autocovariance[dy[near], dx[near]]
    shared[0] = 0
    return offsets[shared <= _ALIKE]
