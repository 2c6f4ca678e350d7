"""Trabecular texture: the projection of a levelled random wave, by the Fourier slice theorem.

Trabecular bone is modelled as the two-phase medium {x : G(x) > t} of a Gaussian random field G (a levelled
wave: Berk, Phys. Rev. Lett. 58, 2718 (1987); Roberts and Teubner, Phys. Rev. E 51, 4141 (1995)). A radiograph
integrates some fifty strut spacings along the beam, so that the projection is Gaussian by the central limit
theorem, and its spectrum is the slice k_z = 0 of the medium's spectrum: sampling that spectrum gives the
projection without ever building the volume.
"""

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.ndimage import correlate1d
from scipy.special import ndtri

# Decay of the field's correlation in units of the strut spacing: trabecular bone is quasi-periodic at best.
_DECAY_PER_SPACING = 0.6
# Short-range cut-off in the same units; it makes the struts' surfaces smooth (Roberts and Teubner's r_c).
_CUTOFF_PER_SPACING = 0.12
# Half the support of the covariance, and the step of the integral along the beam, in mm.
_REACH_MM = 8.0
_BEAM_STEP_MM = 0.15
# Coarsest grid step in mm at which the covariance is computed: a third of the finest strut spacing.
_FINE_STEP_MM = 0.3
# Angle in degrees from the bone's axis of the three fields that are blended to follow the load lines.
LOAD_ANGLES_DEG = (-22.0, 0.0, 22.0)


def field_correlation(r: NDArray[np.floating], spacing: float) -> NDArray[np.floating]:
    """Correlation of the underlying Gaussian field at distance `r` (Roberts and Teubner 1995).

    Args:
        r: distances in mm, any shape.
        spacing: strut spacing 1/Tb.N in mm, the domain scale of the field.

    Returns:
        correlations in [-1, 1], 1 at r = 0, shape and dtype of `r`.
    """
    decay, cutoff = _DECAY_PER_SPACING * spacing, _CUTOFF_PER_SPACING * spacing
    envelope = (np.exp(-r / decay) - cutoff / decay * np.exp(-r / cutoff)) / (1.0 - cutoff / decay)
    return envelope * np.sinc(2.0 * r / spacing)


def levelled_covariance(rho: NDArray[np.floating], volume_fraction: float) -> NDArray[np.floating]:
    """Covariance of the indicator {G > t} where G's correlation is `rho` and t gives `volume_fraction`.

    The bivariate normal integral (1/2pi) int_0^rho exp(-t^2/(1+s)) / sqrt(1-s^2) ds (Roberts and Teubner
    1995), tabulated in asin(s), where the integrand is smooth, and interpolated.

    Returns:
        covariances in mm^0, equal to f(1-f) at rho = 1 and to 0 at rho = 0, shape of `rho`.
    """
    threshold = ndtri(1.0 - volume_fraction)
    angle = np.linspace(-np.pi / 2, np.pi / 2, 2049)
    # The exponent is 0/0 at the lower end for a fraction of one half, where it is 0 everywhere else.
    integrand = np.exp(-(threshold**2) / np.maximum(1.0 + np.sin(angle), 1e-300)) / (2.0 * np.pi)
    steps = 0.5 * (integrand[1:] + integrand[:-1]) * np.diff(angle)
    integral = np.concatenate([[0.0], np.cumsum(steps)])
    integral -= integral[angle.size // 2]
    return np.interp(np.arcsin(np.clip(rho, -1.0, 1.0)), angle, integral)


def projected_covariance(
    bv_tv: float, spacing: float, anisotropy: float, angle_deg: float, pitch: float
) -> NDArray[np.float64]:
    """Covariance of the projected bone thickness per mm of depth, integrated along the beam.

    Args:
        bv_tv: bone volume fraction.
        spacing: strut spacing across the load lines in mm.
        anisotropy: correlation length along the load lines over that across them.
        angle_deg: angle of the load lines from the vertical axis, positive towards +x going down.
        pitch: grid step in mm.

    Returns:
        float64 (m, m), m even, lag zero at [m/2, m/2]; mm (mm^2 of thickness covariance per mm of depth).
    """
    # A pixel wider than the struts averages over them: computed on a finer grid, then averaged down.
    oversampling = int(np.ceil(pitch / _FINE_STEP_MM))
    n = oversampling * max(4, round(_REACH_MM / pitch))
    lag = np.arange(-n, n) * (pitch / oversampling)
    # A point-symmetric covariance: the upper half is computed, the lower mirrored.
    y, x = np.meshgrid(lag[: n + 1], lag, indexing="ij")
    cos, sin = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
    along, across = y * cos + x * sin, x * cos - y * sin
    in_plane = (along / anisotropy) ** 2 + across**2
    total = np.zeros_like(in_plane)
    for i, z in enumerate(np.arange(0.0, _REACH_MM / 2, _BEAM_STEP_MM)):
        rho = field_correlation(np.sqrt(in_plane + z * z), spacing)
        total += (1.0 if i == 0 else 2.0) * _BEAM_STEP_MM * levelled_covariance(rho, bv_tv)
    covariance = np.empty((2 * n, 2 * n))
    covariance[: n + 1] = total
    covariance[n + 1 :, 1:] = total[1:n, 1:][::-1, ::-1]
    covariance[n + 1 :, 0] = total[1:n, 0][::-1]
    if oversampling > 1:
        # The covariance of box averages: convolved with the box's autocorrelation, a triangle.
        triangle = np.convolve(np.ones(oversampling), np.ones(oversampling)) / oversampling**2
        for axis in (0, 1):
            covariance = correlate1d(covariance, triangle, axis=axis, mode="wrap")
        covariance = covariance[::oversampling, ::oversampling]
    # The taper makes the cut-off covariance positive definite to a good approximation.
    taper = np.hanning(covariance.shape[0] + 1)[:-1]
    return covariance * np.sqrt(np.outer(taper, taper))


def sample_field(
    covariance: NDArray[np.floating], shape: tuple[int, int], rng: np.random.Generator
) -> NDArray[np.float32]:
    """A zero-mean Gaussian field with that covariance, periodic on `shape` (circulant embedding).

    Args:
        covariance: (m, m) with lag zero at [m/2, m/2], m at most min(shape).
        shape: (rows, columns) of the field.
        rng: source of the white noise.

    Returns:
        float32 of `shape`, in the square root of the covariance's unit.
    """
    centre = covariance.shape[0] // 2
    half = min(centre, min(shape) // 2)
    kernel = covariance[centre - half : centre + half, centre - half : centre + half]
    embedded = np.zeros(shape, dtype=np.float32)
    # Lag zero to the corner, negative lags to the far ends.
    embedded[:half, :half] = kernel[half:, half:]
    embedded[:half, -half:] = kernel[half:, :half]
    embedded[-half:, :half] = kernel[:half, half:]
    embedded[-half:, -half:] = kernel[:half, :half]
    power = np.maximum(scipy.fft.rfft2(embedded).real, 0.0)
    white = scipy.fft.rfft2(rng.standard_normal(shape, dtype=np.float32))
    return scipy.fft.irfft2(white * np.sqrt(power), s=shape)


def smooth_field(shape: tuple[int, int], scale: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """A slowly varying zero-mean random field of unit variance, from Gaussian bumps on a coarse lattice.

    Args:
        shape: (rows, columns).
        scale: standard deviation of a bump in pixels.
        rng: source of the bumps' heights.

    Returns:
        float32 of `shape`.
    """
    bumps = []
    for n in shape:
        centres = np.arange(-2.0 * scale, n + 2.0 * scale, scale)
        basis = np.exp(-0.5 * ((np.arange(n)[:, None] - centres) / scale) ** 2)
        bumps.append(basis / np.sqrt(np.sum(basis**2, axis=1, keepdims=True)))
    heights = rng.standard_normal((bumps[0].shape[1], bumps[1].shape[1]))
    # einsum without BLAS: one order of summation, hence the same bits with any number of threads.
    return np.einsum("ij,jk->ik", np.einsum("ij,jk->ik", bumps[0], heights), bumps[1].T).astype(np.float32)


def trabecular_fields(
    bv_tv: float,
    spacing: float,
    anisotropy: float,
    pitch: float,
    shape: tuple[int, int],
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], ...]:
    """Projected texture fields, one for each angle of LOAD_ANGLES_DEG.

    Returns:
        float32 fields of `shape`; multiplied by the square root of the depth in mm, each is the fluctuation
        in mm of the projected bone thickness.
    """
    return tuple(
        sample_field(projected_covariance(bv_tv, spacing, anisotropy, angle, pitch), shape, rng)
        for angle in LOAD_ANGLES_DEG
    )
