"""Films to learn segmentation from: phantom legs at any size and place, looked at in more ways than the phantom's own.

The phantom's acquisition is that of one clean exposure centred on the joint. What has to carry to real films learns
from far more: one leg or two, from a close view of the joint to most of the leg; other proportions and contrasts;
borders, shutters, markers, noise, inversion; films without a joint. All ranges are wider than life on purpose
(domain randomisation: Tobin et al. 2017, arXiv:1703.06907), and none was fitted to a real film.
"""

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from data_prep.phantom.acquisition import attenuation_coefficients
from data_prep.phantom.anatomy import CLASS_NAMES, draw_patient
from data_prep.phantom.projection import project
from data_prep.phantom.regions import BACKGROUND, as_labels, knee_regions

Picture = NDArray[np.float32]

_PITCH_MM = 0.7
_FRAME_MM = 260.0
_LEGS, _FILMS = 1, 2  # nodes of the tree of draws


@dataclasses.dataclass(frozen=True)
class Leg:
    """A knee with its shafts.

    Attributes:
        tissue, bone: float32 (n, n), line integrals: of soft tissue throughout, and what bone adds.
        levels: float32 (3, n, n), as `knee_regions` gives them.
        bone_behind: what bone adds behind the middle of the femur.
    """

    tissue: NDArray[np.float32]
    bone: NDArray[np.float32]
    levels: NDArray[np.float32]
    bone_behind: float


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a leg lies in the film: its joint, in pixels, and its frame."""

    x: float
    y: float
    mm_per_pixel: float
    angle_deg: float
    mirrored: bool


def draw_leg(seed: int, index: int) -> Leg:
    """Leg number `index` of the legs of a seed; classes take turns."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_LEGS, index)))
    patient = draw_patient(CLASS_NAMES[index % len(CLASS_NAMES)], rng)
    projection = project(patient, _PITCH_MM, rng, _FRAME_MM)
    mu_bone, mu_soft = attenuation_coefficients(rng.uniform(42.0, 56.0), patient.fat)
    added = (mu_bone - mu_soft) * rng.uniform(0.6, 1.5)
    return Leg(
        tissue=(mu_soft * projection.tissue_mm).astype(np.float32),
        bone=(added * projection.bone_mm).astype(np.float32),
        levels=np.stack(knee_regions(patient, _PITCH_MM, _FRAME_MM)).astype(np.float32),
        bone_behind=float(added * projection.reference_bone_mm),
    )


def draw_films(
    legs: Sequence[Leg], size: int, count: int, seed: int, step: int
) -> tuple[Picture, NDArray[np.uint8]]:
    """The films of one step: a function of the legs, the seed and the step.

    Returns:
        images (count, size, size) float32, both ends of [0, 1] reached, and the number in `REGIONS` of each pixel,
        (count, size, size) uint8.
    """
    films = [
        draw_film(
            legs, size, np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_FILMS, step, row)))
        )
        for row in range(count)
    ]
    return np.stack([image for image, _ in films]), np.stack([labels for _, labels in films])


def draw_film(legs: Sequence[Leg], size: int, rng: np.random.Generator) -> tuple[Picture, NDArray[np.uint8]]:
    """One film, (size, size), and its labels, as `draw_films` gives them."""
    sides = size * np.where(rng.permutation(2) == 0, rng.uniform(0.72, 1.0), 1.0)
    height, width = (int(side) for side in sides)
    line = np.zeros((height, width), np.float32)
    labels = np.full((height, width), BACKGROUND, np.uint8)
    leg, flesh = legs[int(rng.integers(len(legs)))], np.float32(rng.uniform(0.7, 1.3))
    for place in _places(height, width, rng):
        tissue, bone, own = _placed(leg, place, (height, width), rng)
        line += flesh * tissue + bone
        labels = np.where(own != BACKGROUND, own, labels)
    image = _shown(line, flesh * leg.tissue.max() + leg.bone_behind, rng)
    image, seen = _framed(image, rng)
    image = _degraded(image, rng)
    film, truth = np.zeros((size, size), np.float32), np.full((size, size), BACKGROUND, np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    film[top : top + height, left : left + width] = image
    truth[top : top + height, left : left + width] = np.where(seen, labels, np.uint8(BACKGROUND))
    low, high = film.min(), film.max()
    return (film - low) / max(high - low, np.float32(1e-6)), truth


def _places(height: int, width: int, rng: np.random.Generator) -> list[_Place]:
    """No leg, one or two, mirror images of one another."""
    if rng.random() < 0.03:
        return []
    pair = rng.random() < 0.45
    # Of the longer side: a close view of the joint to most of the leg; two legs want more room.
    field_mm = float(np.exp(rng.uniform(np.log(210.0 if pair else 115.0), np.log(480.0))))
    mm_per_pixel = field_mm / max(height, width)
    # Now and then the joint is out of sight.
    y = height * (rng.uniform(0.15, 0.85) if rng.random() < 0.93 else rng.choice([-0.4, 1.4]))
    angle, mirrored = float(np.clip(rng.normal(0, 6), -20, 20)), bool(rng.random() < 0.5)
    if not pair:
        x = width * rng.uniform(0.3, 0.7)
        return [_Place(x, y, mm_per_pixel, angle, mirrored)]
    apart = rng.uniform(105.0, 0.55 * max(field_mm * width / max(height, width), 200.0)) / mm_per_pixel
    middle, splay = width * rng.uniform(0.42, 0.58), float(rng.normal(0, 4))
    return [
        _Place(
            middle + side * apart / 2,
            y + float(rng.normal(0, 5.0)) / mm_per_pixel,
            mm_per_pixel,
            0.3 * angle + side * splay,
            mirrored == (side < 0),
        )
        for side in (-1, 1)
    ]


def _placed(
    leg: Leg, place: _Place, shape: tuple[int, int], rng: np.random.Generator
) -> tuple[Picture, Picture, NDArray[np.uint8]]:
    """Tissue, bone and labels of a leg in the film, its proportions changed."""
    height, width = shape
    v, u = np.meshgrid(np.arange(height) - place.y, np.arange(width) - place.x, indexing="ij")
    angle = np.deg2rad(place.angle_deg)
    stretch_x, stretch_y = np.exp(rng.normal(0, 0.07, 2))
    x = (u * np.cos(angle) + v * np.sin(angle)) * place.mm_per_pixel / stretch_x
    y = (v * np.cos(angle) - u * np.sin(angle)) * place.mm_per_pixel / stretch_y
    x += _bend(shape, 2.5, rng)
    y += _bend(shape, 2.5, rng)
    centre = (leg.bone.shape[0] - 1) / 2
    columns = (x * (-1 if place.mirrored else 1) / _PITCH_MM + centre).astype(np.float32)
    rows = (y / _PITCH_MM + centre).astype(np.float32)

    def sample(source: NDArray) -> Picture:
        return cv2.remap(source, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    # As the pixel averages over its area.
    width_px = 0.4 * place.mm_per_pixel / _PITCH_MM
    bone = cv2.GaussianBlur(leg.bone, (0, 0), width_px)
    return sample(leg.tissue), sample(bone), as_labels(*(sample(level) for level in leg.levels))


def _bend(shape: tuple[int, int], sd: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """A smooth random field of that standard deviation at its knots, five along each side."""
    knots = rng.normal(0, sd, (5, 5))
    return cv2.resize(knots, shape[::-1], interpolation=cv2.INTER_CUBIC)


def _shown(line: Picture, behind_bone: float, rng: np.random.Generator) -> Picture:
    """The display: window, gamma, an uneven field."""
    low, high = behind_bone * rng.uniform(-0.05, 0.45), behind_bone * rng.uniform(0.85, 1.6)
    image = np.clip((line - low) / (high - low), 0, 1) ** np.float32(np.exp(rng.normal(0, 0.3)))
    image = image + _bend(image.shape, rng.uniform(0, 0.04), rng)
    floor = rng.uniform(0, 0.15) * (rng.random() < 0.3)
    return np.clip(floor + (1 - floor) * image, 0, 1).astype(np.float32)


def _framed(image: Picture, rng: np.random.Generator) -> tuple[Picture, NDArray[np.bool_]]:
    """With shutters, bright edges and markers; and which pixels still show the leg."""
    height, width = image.shape
    image, seen = image.copy(), np.ones(image.shape, bool)
    if rng.random() < 0.35:
        corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) + rng.uniform(-0.12, 0.12, (4, 2))
        field = np.zeros(image.shape, np.uint8)
        cv2.fillConvexPoly(field, np.rint(corners * (width, height)).astype(np.int32), 1)
        seen = field > 0
        image[~seen] = rng.choice([0.0, 0.0, rng.uniform(0, 0.3), 1.0])
        if rng.random() < 0.3:
            cv2.polylines(image, [np.rint(corners * (width, height)).astype(np.int32)], True, 1.0)
    if rng.random() < 0.2:
        wide = int(rng.uniform(0.02, 0.12) * height)
        every = slice(None)
        strips = (
            (slice(wide), every),
            (slice(height - wide, height), every),
            (every, slice(wide)),
            (every, slice(width - wide, width)),
        )
        where = strips[int(rng.integers(4))]
        image[where], seen[where] = rng.uniform(0.5, 1.0), False
    lead = np.zeros(image.shape, np.uint8)
    for _ in range(rng.integers(0, 4)):
        at = (int(rng.uniform(0, 0.95) * width), int(rng.uniform(0.05, 1.0) * height))
        level, kind = int(rng.uniform(150, 256)), rng.integers(3)
        if kind == 0:
            text, scale = str(rng.choice(["R", "L", "AP", "R 12", "LT"])), rng.uniform(0.2, 0.6)
            cv2.putText(lead, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, level, 1, cv2.LINE_AA)
        elif kind == 1:
            cv2.circle(lead, at, int(rng.uniform(1, 6)), level, -1)
        else:
            end = (at[0] + int(rng.uniform(3, 9)), at[1] + int(rng.uniform(3, 11)))
            cv2.rectangle(lead, at, end, level, -1)
    image = np.maximum(image, lead / np.float32(255))
    return image, seen


def _degraded(image: Picture, rng: np.random.Generator) -> Picture:
    """Blurred, noisy, and now and then inverted."""
    if rng.random() < 0.5:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.2))
    grain = rng.normal(0, rng.uniform(0, 0.05), image.shape) * np.sqrt(0.2 + image)
    image = np.clip(image + grain, 0, 1).astype(np.float32)
    return 1 - image if rng.random() < 0.12 else image
