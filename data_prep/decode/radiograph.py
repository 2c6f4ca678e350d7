"""What every reader of a format returns, refuses and shares."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

# Luminance of ITU-R BT.601, the weights of JPEG and of Pillow's mode "L".
_REC601 = np.array([0.299, 0.587, 0.114], np.float32)


class DecodeError(Exception):
    """The file is not one readable radiograph; the message is the reason, without the file's name."""


@dataclass(frozen=True)
class Limits:
    """Bounds checked before any pixel is decoded.

    Attributes:
      max_pixels: height times width; a header that promises more is a decompression bomb.
      max_bytes: size of the file.
      min_side: smallest height and width, in pixels, that can be a radiograph.
    """

    max_pixels: int = 100_000_000
    max_bytes: int = 512 * 2**20
    min_side: int = 32


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class Radiograph:
    """A decoded image.

    Attributes:
      pixels: float32, shape (height, width), luminance in the file's own units, bright = dense.
      full_range: difference between the largest and smallest value that the encoding can hold, in the units
        of `pixels`; for floating-point files the range of the data itself.
      bits: bits per sample as stored.
      metadata: acquisition metadata worth keeping, as strings (DICOM only).
      patient: DICOM PatientID, or None. It identifies a person: group by it, never write it out.
      notes: what was lost or assumed on the way, for the manifest.
    """

    pixels: np.ndarray
    full_range: float
    bits: int
    metadata: Mapping[str, str] = field(default_factory=dict)
    patient: str | None = None
    notes: tuple[str, ...] = ()


def check_size(height: int, width: int, limits: Limits) -> None:
    """Raises DecodeError for a picture above the limit or too small to be a radiograph."""
    if height * width > limits.max_pixels:
        raise DecodeError(f"{width}x{height} pixels are over the limit of {limits.max_pixels}")
    if min(height, width) < limits.min_side:
        raise DecodeError(f"{width}x{height} pixels: the shorter side is under {limits.min_side}")


def luminance(pixels: np.ndarray, full_range: float) -> np.ndarray:
    """(H, W), (H, W, 1..4) of any dtype -> float32 (H, W); 2 and 4 channels end in alpha."""
    pixels = pixels.astype(np.float32)
    if pixels.ndim == 2:
        return pixels
    alpha = pixels[..., -1] if pixels.shape[-1] in (2, 4) else None
    colour = pixels[..., : 1 if pixels.shape[-1] <= 2 else 3]
    grey = colour[..., 0] if (colour == colour[..., :1]).all() else colour @ _REC601
    if alpha is not None and (alpha != full_range).any():
        grey = grey * (alpha / np.float32(full_range))
    return grey


def wide(pixels: np.ndarray, bits: int) -> Radiograph:
    """32-bit integers and floats say nothing about their range: it is taken from the data."""
    pixels = pixels.astype(np.float32)
    finite = pixels[np.isfinite(pixels)]
    span = float(finite.max() - finite.min()) if finite.size else 0.0
    return Radiograph(pixels, span or 1.0, bits, notes=("full range taken from the data",))
