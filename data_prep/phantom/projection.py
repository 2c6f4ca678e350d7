"""Anatomy to line integrals: millimetres of bone and of soft tissue along the beam, in the knee's own frame.

The frame: x in mm towards lateral, y in mm towards distal, origin at the centre of the joint line. Bones are
signed distances to their outlines with an elliptical depth profile, so that a cortical shell projects as it
does in a
radiograph: bright at the edge, where the beam runs along it.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.fft import next_fast_len
from scipy.ndimage import gaussian_filter1d, uniform_filter

from data_prep.phantom.anatomy import Patient
from data_prep.phantom.texture import LOAD_ANGLES_DEG, smooth_field, trabecular_fields

Array = NDArray[np.float32]

# Edge of the square that is rendered, in mm: the field of view and room for positioning.
FRAME_MM = 164.0
# Micro-architecture to whose local projected mass every bone is matched: a middling one.
_REFERENCE_BV_TV = 0.185
_REFERENCE_CORTEX_MM = 4.1
# Bone tissue in the cortex, the rest being Haversian porosity.
_CORTICAL_VOLUME_FRACTION = 0.95
# Smooth density differences within a bone (growth plate scar, bone islands, remodelling), not class
# dependent.
_HETEROGENEITY = 0.08
_HETEROGENEITY_MM = 6.0
# Edge in mm of the boxes over which projected mass is matched: wider than a cortex, narrower than what a
# thumbnail resolves.
_MATCHED_MM = 9.0


@dataclasses.dataclass(frozen=True)
class Projection:
    """Line integrals of one knee on a square grid of the knee's frame.

    Attributes:
        bone_mm: float32 (n, n), millimetres of fully mineralised bone along the beam.
        tissue_mm: float32 (n, n), millimetres of body along the beam, bone included.
        pitch_mm: grid step in mm; the frame's origin lies at the grid's centre.
        reference_bone_mm: bone thickness behind which exposure is set, in mm; independent of class.
    """

    bone_mm: Array
    tissue_mm: Array
    pitch_mm: float
    reference_bone_mm: float


@dataclasses.dataclass(frozen=True)
class _Bone:
    """Outline and depth of one bone.

    Attributes:
        inside: distance to the outline in mm, positive inside.
        half_depth: half the bone's depth along the beam, away from its edge, in mm.
        round_off: width in mm of the edge over which the depth rises to that.
        cortex: cortical thickness in mm that is the same for every patient.
        cortex_share: what is added to it, in units of the patient's diaphyseal cortical thickness.
    """

    inside: Array
    half_depth: Array
    round_off: Array
    cortex: Array
    cortex_share: Array


_Build = Callable[[Array, Array, Patient], _Bone]


def _smoothstep(x: Array, low: float, high: float) -> Array:
    t = np.clip((x - np.float32(low)) / np.float32(high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def _smooth_max(a: Array, b: Array, radius: float) -> Array:
    """Union of two solids given by distances positive inside, the crease filled with that radius."""
    h = np.clip(np.float32(radius) - np.abs(a - b), 0.0, None)
    return np.maximum(a, b) + h * h * np.float32(0.25 / radius)


def _smooth_min(a: Array, b: Array, radius: float) -> Array:
    return -_smooth_max(-a, -b, radius)


def _ellipse(x: Array, y: Array, cx: float, cy: float, rx: float | Array, ry: float) -> Array:
    """Approximate signed distance to an ellipse, positive inside (value over gradient)."""
    half_width, half_height = np.float32(rx), np.float32(ry)
    u, v = (x - np.float32(cx)) / half_width, (y - np.float32(cy)) / half_height
    gradient = np.sqrt((u / half_width) ** 2 + (v / half_height) ** 2) + np.float32(1e-4)
    return np.minimum((1.0 - u * u - v * v) / (2.0 * gradient), np.minimum(half_width, half_height))


def _profile(x: Array, y: Array, knots: tuple[tuple[float, float, float], ...]) -> Array:
    """Signed distance, positive inside, to a shape given by (y, medial edge, lateral edge) of its rows."""
    rows = y[:, 0]
    at, medial, lateral = (np.array(column) for column in zip(*knots, strict=True))
    step = float(rows[1] - rows[0])
    edges = []
    for edge in (medial, lateral):
        # Linear interpolation, then a blur of 5 mm, gives edges without corners.
        curve = gaussian_filter1d(np.interp(rows, at, edge), 5.0 / step, mode="nearest")
        slope = np.gradient(curve, step)
        edges.append((curve[:, None].astype(np.float32), np.sqrt(1 + slope**2)[:, None].astype(np.float32)))
    (left, left_norm), (right, right_norm) = edges
    return np.minimum((x - left) / left_norm, (right - x) / right_norm)


def _femur(x: Array, y: Array, patient: Patient) -> _Bone:
    body = _profile(
        x,
        y,
        (
            (-95, -10, 21),
            (-72, -13, 20),
            (-55, -19, 24),
            (-42, -30, 32),
            (-34, -39, 38),
            (-26, -41, 39),
            (-14, -41, 39),
            (0, -39, 37),
        ),
    )
    body = _smooth_min(body, -y - np.float32(16.0), 8.0)
    medial = _ellipse(x, y, -22.5, -19, 18.0, 17.5)
    lateral = _ellipse(x, y, 21.5, -19, 17.0, 16.5)
    inside = _smooth_max(body, np.maximum(medial, lateral), 5.0)
    # 1 at the joint, 0 in the shaft.
    epiphysis = _smoothstep(y, -75.0, -30.0)
    return _Bone(
        inside=inside,
        half_depth=14.0 + 12.0 * epiphysis,
        round_off=15.0 + 2.0 * epiphysis,
        cortex=0.9 * epiphysis,
        cortex_share=1.0 - epiphysis,
    )


def _tibia(x: Array, y: Array, patient: Patient) -> _Bone:
    top = np.float32(patient.joint_space_mm - 2.5)
    body = _profile(
        x,
        y,
        (
            (0, -37, 37),
            (8, -38.5, 38),
            (16, -37, 36),
            (28, -28, 25),
            (45, -20, 16),
            (70, -15, 10),
            (100, -14, 9),
        ),
    )
    spines = 4.5 * np.exp(-(((x + 5.0) / 3.4) ** 2)) + 3.5 * np.exp(-(((x - 6.0) / 3.2) ** 2))
    plateau = 1.6 * np.exp(-(((x + 21.0) / 12.0) ** 2)) + 0.8 * np.exp(-(((x - 21.0) / 12.0) ** 2))
    inside = _smooth_min(body, y - top - plateau + spines, 5.0)
    epiphysis = 1.0 - _smoothstep(y, 18.0, 65.0)
    return _Bone(
        inside=inside,
        half_depth=13.0 + 10.0 * epiphysis,
        round_off=13.0 + 3.0 * epiphysis,
        cortex=epiphysis,
        cortex_share=0.9 * (1.0 - epiphysis),
    )


def _fibula(x: Array, y: Array, patient: Patient) -> _Bone:
    shaft = _profile(x, y, ((10, 28, 42), (25, 29, 40), (40, 26, 36), (100, 20, 30)))
    inside = _smooth_max(_smooth_min(shaft, y - np.float32(20.0), 6.0), _ellipse(x, y, 35, 21, 7.5, 9.0), 5.0)
    return _Bone(
        inside=inside,
        half_depth=np.full_like(x, 5.5),
        round_off=np.full_like(x, 5.0),
        cortex=np.full_like(x, 0.6),
        cortex_share=0.45 * _smoothstep(y, 18.0, 50.0),
    )


def _patella(x: Array, y: Array, patient: Patient) -> _Bone:
    lateral, distal = patient.patella_mm
    return _Bone(
        inside=_ellipse(x, y, lateral, distal - 6.0, 20.0 - 0.12 * (y - np.float32(distal)), 18.5),
        half_depth=np.full_like(x, 5.5),
        round_off=np.full_like(x, 11.0),
        cortex=np.full_like(x, 1.0),
        cortex_share=np.zeros_like(x),
    )


def _chord(inside: Array, round_off: Array, half_depth: Array) -> Array:
    """Length in mm of the beam inside a solid: an elliptical edge of width `round_off`, flat beyond."""
    u = 1.0 - np.clip(inside / round_off, 0.0, 1.0)
    return 2.0 * half_depth * np.sqrt(1.0 - u * u)


def _chords(bone: _Bone, cortex_mm: float) -> tuple[Array, Array]:
    """Lengths in mm of the beam in the shell, for that diaphyseal thickness, and in what the shell
    encloses."""
    cortex = bone.cortex + np.float32(cortex_mm) * bone.cortex_share
    whole = _chord(bone.inside, bone.round_off, bone.half_depth)
    # The shell cannot fill the bone: a medullary core of at least 0.5 mm stays.
    core = _chord(
        bone.inside - cortex,
        np.maximum(bone.round_off - cortex, np.float32(0.5)),
        np.maximum(bone.half_depth - cortex, np.float32(0.5)),
    )
    return whole - core, core


def _femoral_fill(y: Array) -> Array:
    """Trabecular density over that of the epiphysis: the diaphysis is a nearly empty canal."""
    return 0.12 + 0.88 * _smoothstep(y, -75.0, -38.0)


def _tibial_fill(y: Array) -> Array:
    """Trabecular density over that of the epiphysis."""
    return 1.0 - 0.88 * _smoothstep(y, 25.0, 65.0)


def _load_weights(x: Array, y: Array) -> tuple[Array, ...]:
    """Weights of the fields of LOAD_ANGLES_DEG; their squares sum to 1, so that the variance is even.

    Femoral struts fan out from the shaft to the condyles, tibial ones gather from the plateaus into the
    shaft.
    """
    tilt = np.clip(x / np.float32(38.0), -1.0, 1.0) * np.float32(LOAD_ANGLES_DEG[-1])
    tilt *= np.where(y < 0, np.float32(1.0), np.float32(-1.0))
    step = np.float32(LOAD_ANGLES_DEG[1] - LOAD_ANGLES_DEG[0])
    shares = [np.clip(1.0 - np.abs(tilt - np.float32(angle)) / step, 0.0, 1.0) for angle in LOAD_ANGLES_DEG]
    return tuple(np.sqrt(share) for share in shares)


def _relative_texture(field: Array, variance: float, core: Array, bv_tv: float) -> Array:
    """Projected trabecular bone over its mean, for a field of that variance per mm of depth.

    Lognormal with mean 1 and, to first order, the field's fluctuation: the Gaussian limit where the bone is
    deep, and neither negative nor brighter on average where it is shallow and the fluctuation large.
    """
    scale = 1.0 / (np.float32(bv_tv) * np.sqrt(np.maximum(core, np.float32(1.0))))
    return np.exp(scale * field - np.float32(0.5 * variance) * scale * scale)


def _mass_match(bone_mm: Array, reference_mm: Array, step: float) -> Array:
    """Smooth factor that gives `bone_mm` the local mean of `reference_mm`, over about 1 cm."""
    size = max(1, round(_MATCHED_MM / step))

    def local_mean(mass: Array) -> Array:
        # Two boxes in a row are nearly a Gaussian; 0.1 mm keeps the ratio defined where there is no bone.
        return uniform_filter(uniform_filter(mass, size, mode="nearest"), size, mode="nearest") + 0.1

    target = local_mean(reference_mm)
    match = np.ones_like(target)
    # Repeated for what the factor's own variation within the boxes leaves over.
    for _ in range(4):
        match *= target / local_mean(match * bone_mm)
    return match


def _window(axis: NDArray[np.float32], low: float, high: float) -> slice:
    """Indices of the axis values from `low` to `high` mm."""
    first, last = np.searchsorted(axis, (low, high))
    return slice(int(first), int(last))


def knee_axis(patient: Patient, pitch_mm: float, frame_mm: float) -> Array:
    """Coordinates in mm of the rows and columns of the square that is rendered, of a bone of average size."""
    n = next_fast_len(round(frame_mm / pitch_mm), real=True)
    return ((np.arange(n) - (n - 1) / 2) * pitch_mm / patient.size).astype(np.float32)


def outlines(patient: Patient, pitch_mm: float, frame_mm: float = FRAME_MM) -> tuple[Array, Array]:
    """Signed distances to the outlines of femur and tibia, positive inside.

    Args:
        patient: whose knee.
        pitch_mm: grid step in mm.
        frame_mm: edge of the square.

    Returns:
        float32 (n, n) each, in mm of a bone of average size, on the grid of `project`.
    """
    axis = knee_axis(patient, pitch_mm, frame_mm)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    return _femur(x, y, patient).inside, _tibia(x, y, patient).inside


def project(
    patient: Patient, pitch_mm: float, rng: np.random.Generator, frame_mm: float = FRAME_MM
) -> Projection:
    """Projects a knee of `patient`.

    The mean of each row of each bone is matched to that of a reference micro-architecture by scaling the
    bone's depth along the beam, which a projection does not show. This departs from anatomy on purpose: areal
    bone mass, which DXA measures, would otherwise give the class away by brightness alone; what is left to
    see is structure.

    Args:
        patient: whose knee.
        pitch_mm: grid step in mm.
        rng: source of this knee's texture; the same state gives the same knee.
        frame_mm: edge of the square; beyond the knee the shafts go on as they are.

    Returns:
        the line integrals on a square grid of at least `frame_mm`.
    """
    axis = knee_axis(patient, pitch_mm, frame_mm)
    n, step = len(axis), float(axis[1] - axis[0])
    fields = trabecular_fields(
        patient.bv_tv, 1.0 / patient.tb_n_per_mm, patient.anisotropy, pitch_mm, (n, n), rng
    )
    variance = float(np.mean([field.var() for field in fields]))
    density = 1.0 + np.float32(_HETEROGENEITY) * smooth_field((n, n), _HETEROGENEITY_MM / pitch_mm, rng)
    # Overlapping bones must not share one texture: each takes the periodic fields from another place.
    shifts = rng.integers(0, n, (4, 2))

    lateral, distal = patient.patella_mm
    bones: tuple[tuple[_Build, Callable[[Array], Array], slice, slice], ...] = (
        (_femur, _femoral_fill, slice(None), _window(axis, -np.inf, 6.0)),
        (_tibia, _tibial_fill, slice(None), _window(axis, -8.0, np.inf)),
        (_fibula, np.ones_like, _window(axis, 12.0, 50.0), _window(axis, 4.0, np.inf)),
        (
            *(_patella, np.ones_like),
            *(_window(axis, lateral - 26.0, lateral + 26.0), _window(axis, distal - 30.0, distal + 26.0)),
        ),
    )
    total = np.zeros((n, n), dtype=np.float32)
    reference_bone_mm = 0.0
    for (build, fill_at, columns, rows), shift in zip(bones, shifts, strict=True):
        y, x = np.meshgrid(axis[rows], axis[columns], indexing="ij")
        bone = build(x, y, patient)
        fill = fill_at(y[:, :1])
        shell, core = _chords(bone, patient.cortex_mm)
        trabecular = np.float32(patient.bv_tv) * fill * core
        reference_shell, reference_core = _chords(bone, _REFERENCE_CORTEX_MM)
        reference = (
            _CORTICAL_VOLUME_FRACTION * reference_shell + np.float32(_REFERENCE_BV_TV) * fill * reference_core
        )
        match = _mass_match(_CORTICAL_VOLUME_FRACTION * shell + trabecular, reference, step)
        if build is _femur:
            reference_bone_mm = float(np.median(reference[bone.inside > 12.0])) * patient.areal_mass
        field = functools.reduce(
            np.add,
            (
                weight * np.roll(field, tuple(shift), axis=(0, 1))[rows, columns]
                for weight, field in zip(_load_weights(x, y), fields, strict=True)
            ),
        )
        texture = density[rows, columns] * _relative_texture(field, variance, core, patient.bv_tv)
        total[rows, columns] += match * (_CORTICAL_VOLUME_FRACTION * shell + trabecular * texture)
    x, y = np.broadcast_to(axis, (n, n)), np.broadcast_to(axis[:, None], (n, n))
    return Projection(
        bone_mm=total * np.float32(patient.areal_mass),
        tissue_mm=_soft_tissue(x, y, patient),
        pitch_mm=pitch_mm,
        reference_bone_mm=reference_bone_mm,
    )


def _soft_tissue(x: Array, y: Array, patient: Patient) -> Array:
    """Millimetres of body along the beam: an elliptical limb, wider at the thigh than at the joint."""
    w = patient.soft_tissue / patient.size
    outline = _profile(
        x,
        y,
        (
            (-90, -68 * w, 72 * w),
            (-45, -60 * w, 62 * w),
            (0, -55 * w, 55 * w),
            (40, -54 * w, 58 * w),
            (90, -58 * w, 62 * w),
        ),
    )
    half_width = np.float32(56.0 * w)
    depth = _chord(outline, np.full_like(x, half_width), np.full_like(x, 0.95 * half_width))
    return depth * np.float32(patient.size)
