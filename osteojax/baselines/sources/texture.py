"""Trabecular texture: co-occurrence of grey levels, local binary patterns, and the fractal dimension."""

import dataclasses
from typing import Annotated

import numpy as np
from skimage.feature import graycomatrix, graycoprops, local_binary_pattern

from osteojax.baselines.sources.registry import SOURCES, Table, table
from osteojax.config import AtLeastOne
from osteojax.data.dataset import Examples

_LEVELS = 32
_DISTANCES = (1, 2, 4)  # pixels
_ANGLES = tuple(np.pi / 4 * k for k in range(4))
_PROPERTIES = ("contrast", "dissimilarity", "homogeneity", "energy", "correlation")
_PATTERNS = ((8, 1), (16, 2))  # points on a circle of so many pixels
# Cycles a pixel between which the spectrum of a fractal is a power law: lower, it is the bone's outline, higher,
# what denoising and resizing have left.
_BAND = (0.04, 0.25)


@dataclasses.dataclass(frozen=True)
class Texture:
    """How the image is cut: features of each of grid x grid equal parts, row by row."""

    grid: Annotated[int, AtLeastOne] = 2


@SOURCES.function("texture", settings=Texture)
def texture(examples: Examples, settings: Texture) -> Table:
    """44 features of each part of each image; see `of_part`."""
    values = np.stack(
        [
            np.concatenate([of_part(part) for part in _parts(example["image"][..., 0], settings.grid)])
            for example in examples
        ]
    )
    names = tuple(f"{name} ({part + 1})" for part in range(settings.grid**2) for name in feature_names())
    return table(names, values)


def _parts(image: np.ndarray, grid: int) -> list[np.ndarray]:
    return [part for row in np.array_split(image, grid) for part in np.array_split(row, grid, axis=1)]


def feature_names() -> tuple[str, ...]:
    """Of what `of_part` gives."""
    return (
        *(f"{name} at {distance}" for name in _PROPERTIES for distance in _DISTANCES),
        *(f"pattern {k} of {points}" for points, _ in _PATTERNS for k in range(points + 2)),
        "fractal dimension",
    )


def of_part(image: np.ndarray) -> np.ndarray:
    """Texture features (44,) float64 of pixels (H, W) in [0, 1].

    Grey-level co-occurrence (Haralick, Shanmugam and Dinstein 1973) at 32 levels, mean over four directions; histograms
    of rotation-invariant uniform local binary patterns (Ojala, Pietikainen and Maenpaa 2002); both by scikit-image;
    and `fractal_dimension`.
    """
    levels = np.minimum(image * _LEVELS, _LEVELS - 1).astype(np.uint8)
    matrices = graycomatrix(levels, _DISTANCES, _ANGLES, levels=_LEVELS, symmetric=True, normed=True)
    properties = [graycoprops(matrices, name).mean(1) for name in _PROPERTIES]
    grey = np.round(image * 255).astype(np.uint8)  # equal neighbours must be equal
    histograms = [
        np.bincount(
            local_binary_pattern(grey, points, radius, "uniform").astype(int).ravel(), minlength=points + 2
        )
        / grey.size
        for points, radius in _PATTERNS
    ]
    return np.concatenate([*properties, *histograms, [fractal_dimension(image)]])


def fractal_dimension(image: np.ndarray) -> float:
    """Fractal dimension of the grey-level surface, from the slope of its power spectrum.

    A fractional Brownian surface of dimension D = 3 - H has a radial spectrum f^-(2 H + 2), so that D = 4 - slope / 2
    (Voss 1988; of trabecular bone Majumdar et al. 1999). The window is Hann's.

    Args:
        image: (H, W).

    Returns:
        D; NaN where the image is constant or too small for eight frequencies of the band. It is not held to [2, 3]: an
        image that is no fractal says so.
    """
    height, width = image.shape
    window = np.outer(np.hanning(height), np.hanning(width))
    power = np.abs(np.fft.fft2((image - image.mean()) * window)) ** 2
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    inside = (frequency >= _BAND[0]) & (frequency <= _BAND[1])
    edges = np.geomspace(*_BAND, 9)
    ring = np.digitize(frequency[inside], edges[1:-1])
    counts = np.bincount(ring, minlength=8)
    if not counts.all():
        return float("nan")
    mean = np.bincount(ring, power[inside], minlength=8) / counts
    if not (mean > 0).all():
        return float("nan")
    middle = np.bincount(ring, np.log(frequency[inside]), minlength=8) / counts
    slope = np.polyfit(middle, np.log(mean), 1)[0]
    return float(4 + slope / 2)
