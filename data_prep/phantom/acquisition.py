"""The exposure: positioning, beam, detector, noise, collimation, marker, display; all independent of
class."""

import dataclasses

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform, gaussian_filter
from scipy.optimize import brentq

from data_prep.phantom.anatomy import Patient
from data_prep.phantom.projection import Projection

# Effective energy in keV and linear attenuation in 1/mm: mass attenuation coefficients of NIST (Hubbell and
# Seltzer, NISTIR 5632, table 4: bone, cortical; tissue, soft; adipose tissue; all ICRU-44) times the
# densities 1.92, 1.06 and 0.95 g/cm^3. A knee is exposed at 60 to 70 kVp, an effective energy of 40 to 55 keV
# behind the patient.
_ENERGY_KEV = (40.0, 50.0, 60.0)
_MU_BONE = tuple(0.1 * 1.92 * m for m in (0.6655, 0.4242, 0.3148))
_MU_SOFT = tuple(0.1 * 1.06 * m for m in (0.2688, 0.2264, 0.2048))
_MU_ADIPOSE = tuple(0.1 * 0.95 * m for m in (0.2396, 0.2123, 0.1969))
# Electronic noise of an indirect flat panel in detected quanta, root mean square.
_READOUT_QUANTA = 1.5
# Line integral of a lead marker: nothing but scatter passes.
_MARKER_ATTENUATION = 3.0
# Letters of the side marker, 7 rows of 5.
_GLYPHS = {
    "R": ("11110", "10001", "10001", "11110", "10100", "10010", "10001"),
    "L": ("10000", "10000", "10000", "10000", "10000", "10000", "11111"),
}


@dataclasses.dataclass(frozen=True)
class Acquisition:
    """How one image is taken.

    Attributes:
        side: 'L' or 'R'; the anatomy is mirrored accordingly.
        field_mm: length that the longer image side covers, in mm.
        rotation_deg: in-plane rotation of the limb in degrees.
        shift_mm: (x, y) position of the joint's centre from the image's centre, in mm.
        energy_kev: effective energy of the beam.
        quanta: mean detected quanta per pixel behind the reference bone thickness.
        heel: relative change of the beam's intensity from the top edge to the bottom edge.
        blur_mm: standard deviation of the detector's point spread, in mm.
        window: (low, high) of the display as fractions: of the soft tissue's attenuation, and of the bone's
            contrast that is added above the reference bone.
        collimation: width of the shuttered margin at top, bottom, left, right as fractions of the image.
        marker: (corner 0..3, height as a fraction of the image, boxed) or None.
    """

    side: str
    field_mm: float
    rotation_deg: float
    shift_mm: tuple[float, float]
    energy_kev: float
    quanta: float
    heel: float
    blur_mm: float
    window: tuple[float, float]
    collimation: tuple[float, float, float, float]
    marker: tuple[int, float, bool] | None


def draw_acquisition(side: str, quanta: float, rng: np.random.Generator) -> Acquisition:
    """Draws the acquisition of one image; knows nothing of the patient."""
    top, bottom, left, right = map(float, rng.uniform(0.01, 0.07, 4) * (rng.random(4) < 0.3))
    marker = (int(rng.integers(4)), float(rng.uniform(0.035, 0.055)), bool(rng.random() < 0.5))
    return Acquisition(
        side=side,
        field_mm=float(rng.uniform(122.0, 142.0)),
        rotation_deg=float(np.clip(rng.normal(0.0, 3.0), -7.0, 7.0)),
        shift_mm=(
            float(np.clip(rng.normal(0.0, 4.0), -10, 10)),
            float(np.clip(rng.normal(2.0, 5.0), -10, 12)),
        ),
        energy_kev=float(rng.uniform(42.0, 56.0)),
        quanta=quanta * float(np.exp(np.clip(rng.normal(0.0, 0.25), -0.6, 0.6))),
        heel=float(rng.uniform(-0.15, 0.15)),
        blur_mm=float(rng.uniform(0.12, 0.22)),
        window=(float(rng.uniform(0.15, 0.5)), float(rng.uniform(0.6, 1.1))),
        collimation=(top, bottom, left, right),
        marker=marker if rng.random() < 0.8 else None,
    )


def attenuation_coefficients(energy_kev: float, fat: float) -> tuple[float, float]:
    """Linear attenuation in 1/mm of bone and of soft tissue of that adipose fraction (log-log
    interpolated)."""
    at = np.log(energy_kev)
    bone, soft, adipose = (
        float(np.exp(np.interp(at, np.log(_ENERGY_KEV), np.log(mu))))
        for mu in (_MU_BONE, _MU_SOFT, _MU_ADIPOSE)
    )
    return bone, (1.0 - fat) * soft + fat * adipose


def resample(
    line_integral: NDArray[np.float32], grid_mm: float, acquisition: Acquisition, image_size: tuple[int, int]
) -> NDArray[np.float32]:
    """The knee's frame onto the detector's pixels, linear interpolation."""
    pixel_mm = acquisition.field_mm / max(image_size)
    angle = np.deg2rad(acquisition.rotation_deg)
    # A right knee in AP view has its lateral side on the image's left.
    flip = -1.0 if acquisition.side == "R" else 1.0
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = np.diag([1.0, flip]) @ rotation * (pixel_mm / grid_mm)
    image_centre = (np.array(image_size) - 1) / 2 + np.array(acquisition.shift_mm[::-1]) / pixel_mm
    grid_centre = (np.array(line_integral.shape) - 1) / 2
    return affine_transform(
        line_integral,
        matrix,
        grid_centre - matrix @ image_centre,
        output_shape=image_size,
        order=1,
        mode="nearest",
    )


def _marker_mask(acquisition: Acquisition, image_size: tuple[int, int]) -> NDArray[np.bool_]:
    """True where the side marker's lead lies."""
    mask = np.zeros(image_size, dtype=bool)
    if acquisition.marker is None:
        return mask
    corner, height, boxed = acquisition.marker
    scale = max(1, round(height * max(image_size) / 7))
    glyph = np.array([[c == "1" for c in row] for row in _GLYPHS[acquisition.side]])
    if boxed:
        glyph = ~np.pad(glyph, 1)
    glyph = np.kron(glyph, np.ones((scale, scale), dtype=bool))
    top, bottom, left, right = (
        round(m * n) + n // 40 for m, n in zip(acquisition.collimation, np.repeat(image_size, 2), strict=True)
    )
    rows, columns = glyph.shape
    row = top if corner < 2 else image_size[0] - bottom - rows
    column = left if corner % 2 == 0 else image_size[1] - right - columns
    mask[row : row + rows, column : column + columns] = glyph
    return mask


def shutter(acquisition: Acquisition, image_size: tuple[int, int]) -> NDArray[np.bool_]:
    """True inside the collimated field; the display blackens the rest, as clinical systems do."""
    height, width = image_size
    top, bottom, left, right = acquisition.collimation
    inside = np.zeros(image_size, dtype=bool)
    inside[
        round(top * height) : height - round(bottom * height),
        round(left * width) : width - round(right * width),
    ] = True
    return inside


def expose(
    projection: Projection,
    patient: Patient,
    acquisition: Acquisition,
    image_size: tuple[int, int],
    psnr_db: float | None,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.float32], float]:
    """Takes one image: Beer-Lambert, detector, noise, logarithm, display window, shutter.

    Args:
        projection: line integrals of the knee.
        patient: for the composition of the soft tissue.
        acquisition: positioning, beam, detector and display.
        image_size: (height, width) in pixels.
        psnr_db: expected PSNR to reach by the exposure, or None to use `acquisition.quanta`.
        rng: source of the noise.

    Returns:
        (clean, noisy, quanta): float32 images (height, width) in [0, 1], bone bright, on the same scale, and
        the mean detected quanta per pixel behind the reference bone. Both are clipped by the display window.
    """
    mu_bone, mu_soft = attenuation_coefficients(acquisition.energy_kev, patient.fat)
    contrast = mu_bone - mu_soft
    line_integral = np.float32(mu_soft) * projection.tissue_mm + np.float32(contrast) * projection.bone_mm
    line_integral = resample(line_integral, projection.pitch_mm, acquisition, image_size)
    line_integral += _MARKER_ATTENUATION * _marker_mask(acquisition, image_size)
    beam = 1.0 + acquisition.heel * np.linspace(-0.5, 0.5, image_size[0], dtype=np.float32)[:, None]
    transmitted = beam * np.exp(-line_integral)
    # The scintillator spreads light before it is counted, so that blur does not correlate the noise.
    pixel_mm = acquisition.field_mm / max(image_size)
    transmitted = gaussian_filter(transmitted, acquisition.blur_mm / pixel_mm, truncate=3.0, mode="nearest")

    # Exposure and window follow two reference thicknesses that do not depend on class.
    soft = mu_soft * float(projection.tissue_mm.max())
    bone = soft + contrast * projection.reference_bone_mm
    low = acquisition.window[0] * soft
    high = bone + acquisition.window[1] * contrast * projection.reference_bone_mm
    inside = shutter(acquisition, image_size)

    def display(log_attenuation: NDArray[np.float32]) -> NDArray[np.float32]:
        shown = np.clip((log_attenuation - low) / (high - low), 0.0, 1.0)
        return np.where(inside, shown, 0.0).astype(np.float32)

    clean = display(-np.log(transmitted))
    relative = transmitted * np.float32(np.exp(bone))
    quanta = acquisition.quanta
    if psnr_db is not None:
        quanta = _quanta_for_psnr(
            psnr_db, relative[inside & (clean > 0) & (clean < 1)], clean.size, high - low
        )
    expected = np.float32(quanta) * relative
    counts = rng.poisson(expected) + rng.normal(0.0, _READOUT_QUANTA, image_size)
    # A pixel that counted nothing shows half a quantum: the logarithm needs a floor.
    measured = bone + np.log(quanta) - np.log(np.maximum(counts, 0.5))
    return clean, display(measured.astype(np.float32)), float(quanta)


def _quanta_for_psnr(psnr_db: float, relative: NDArray[np.float32], n_pixels: int, window: float) -> float:
    """Exposure at which the displayed noise has that PSNR, by the variance of the logarithm of the counts.

    Delta method: var(log n) = (n + readout^2) / n^2 for n expected quanta; pixels that the display clips add
    none.
    """

    def excess(log_quanta: float) -> float:
        n = np.exp(log_quanta) * relative.astype(np.float64)
        mse = np.sum((n + _READOUT_QUANTA**2) / n**2) / n_pixels / window**2
        return -10.0 * np.log10(mse) - psnr_db

    return float(np.exp(brentq(excess, np.log(1e-2), np.log(1e9))))
