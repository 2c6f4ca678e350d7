"""The linear transforms of BM3D as small float64 matrices, shared by every backend."""

import numpy as np
import pywt
from scipy.fft import dct

from osteojax.errors import UserError


def block_transform(name: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The 1-D matrix whose separable use on rows and columns is a block's 2-D transform.

    Args:
        name: "dct" (DCT-II, orthonormal) or "bior1.5" (full periodic biorthogonal wavelet decomposition).
        size: side of the block; a power of two for a wavelet.

    Returns:
        (forward, inverse), float64 (size, size): `coefficients = forward @ block @ forward.T` and
        `block = inverse @ coefficients @ inverse.T`. Rows of `forward` have unit norm, so that white noise of
        variance sigma**2 has variance sigma**2 in every coefficient (the wavelet's are correlated, though);
        row 0 alone sees a constant block.

    Raises:
        UserError: unknown name, or a size that the transform does not have.
    """
    if name == "dct":
        forward = dct(np.eye(size), axis=0, norm="ortho")
    elif name == "bior1.5":
        if size & (size - 1):
            raise UserError(f"BM3D: a {name} block must have a power of two as its side, not {size}")
        forward = _wavelet_matrix(name, size)
        forward /= np.linalg.norm(forward, axis=1, keepdims=True)
    else:
        raise UserError(f"BM3D: unknown block transform {name!r}; choose 'dct' or 'bior1.5'")
    return forward, np.linalg.inv(forward)


def _wavelet_matrix(name: str, size: int) -> np.ndarray:
    """Columns are the decompositions of the unit vectors, coarsest coefficient first, until one is left."""
    wavelet = pywt.Wavelet(name)
    coefficients = np.eye(size)
    length = size
    while length > 1:
        low, high = pywt.dwt(coefficients[:length], wavelet, mode="periodization", axis=0)
        coefficients[:length] = np.concatenate([low, high])
        length //= 2
    return coefficients


def overlap_correlation(forward: np.ndarray) -> np.ndarray:
    """How much of the noise in one 1-D coefficient two overlapping blocks share.

    Args:
        forward: (size, size), as of `block_transform`.

    Returns:
        float64 (size, size), `r[d, k] = sum_x forward[k, x] forward[k, x + d]`: the correlation of
        coefficient k of two strips that lie d pixels apart, white noise given; r[0] is 1. For 2-D blocks at a
        distance of (dy, dx) it is `rho[k, l] = r[|dy|, k] r[|dx|, l]`, 0 where they do not overlap, and the
        variance of coefficient j along a group with transform H is `sum_ab H[j, a] H[j, b] rho(a - b)`
        (Makinen, Azzari, Foi, IEEE TIP 29, 2020, section III).
    """
    size = len(forward)
    return np.stack([(forward[:, : size - d] * forward[:, d:]).sum(axis=1) for d in range(size)])


def block_covariance(forward: np.ndarray, autocovariance: np.ndarray, reach: int) -> np.ndarray:
    """How much of the noise in one 2-D coefficient two blocks share, whatever the colour of the noise.

    Args:
        forward: (size, size), as of `block_transform`.
        autocovariance: (lags, lags), `r[m, n]` of two pixels at a distance of (m, n); even in both, 0 from `lags` on.
        reach: how many distances are wanted.

    Returns:
        float64 (reach, reach, size, size): the covariance of coefficient (k, l) of two blocks at a distance of
        (dy, dx), `rho[dy, dx, k, l] = sum_mn a[k, m] a[l, n] r[|m + dy|, |n + dx|]` with a[k] the autocorrelation of
        row k of `forward` (Makinen, Azzari, Foi, IEEE TIP 29, 2020, section III). At (0, 0) it is the coefficient's
        variance. With r[0, 0] = 1 alone, white noise, it is what `overlap_correlation` gives.
    """
    size, lags = len(forward), len(autocovariance)
    own = overlap_correlation(forward)
    along = np.zeros((reach, lags, size))
    for distance in range(reach):
        for m in range(1 - size, size):
            lag = abs(m + distance)
            if lag < lags:
                along[distance, lag] += own[abs(m)]
    return np.einsum("yak,ab,xbl->yxkl", along, autocovariance, along, optimize=True)


def haar_matrix(size: int) -> np.ndarray:
    """The orthonormal Haar matrix (size, size), float64, `size` a power of two; row 0 is constant."""
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.concatenate(
            [np.kron(matrix, [1.0, 1.0]), np.kron(np.eye(len(matrix)), [1.0, -1.0])]
        ) / np.sqrt(2.0)
    return matrix


def kaiser_window(size: int, beta: float) -> np.ndarray:
    """One axis of the separable Kaiser window over a block (size,), float64 (paper, section III-B)."""
    return np.kaiser(size, beta)
