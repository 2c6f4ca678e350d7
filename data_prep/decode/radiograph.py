"""What every reader of a format returns, refuses and shares."""

import dataclasses
from collections.abc import Mapping

import numpy as np

# Luminance of ITU-R BT.601, the weights of JPEG and of Pillow's mode "L".
_REC601 = np.array([0.299, 0.587, 0.114], np.float32)


# Plain radiographs (PS3.3, C.7.3.1.1.1): computed, digital and scanned ones, and names that makers use for them.
MODALITIES = ("CR", "DX", "DR", "RG", "XR", "RF", "PX", "IO", "MG")


class DecodeError(Exception):
    """The file is not one readable radiograph; the message is the reason, without the file's name."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """Bounds checked before any pixel is decoded.

    Attributes:
        max_pixels: height times width; a header that promises more is a decompression bomb.
        max_bytes: size of the file, and of what a compressed file unpacks to before its pixels.
        min_side: smallest height and width, in pixels, that can be a radiograph.
        modalities: DICOM modalities that are taken; "SC" stands for secondary captures of any modality.
    """

    max_pixels: int = 100_000_000
    max_bytes: int = 512 * 2**20
    min_side: int = 32
    modalities: tuple[str, ...] = MODALITIES


DEFAULT_LIMITS = Limits()


@dataclasses.dataclass(frozen=True)
class Radiograph:
    """A decoded image.

    Attributes:
        pixels: float32, shape (height, width), finite, luminance in the file's own units, bright = dense.
        full_range: difference between the largest and smallest value that the encoding can hold, in the units
            of `pixels`; for floating-point files the range of the data itself.
        bits: bits per sample as stored.
        metadata: acquisition metadata worth keeping, as strings (DICOM only).
        patient: DICOM PatientID, or None. It identifies a person: group by it, never write it out.
        notes: what was lost or assumed on the way, for the manifest.
        pixel_aspect: height of a pixel over its width.
        date: when it was taken (DICOM only), as 2019-06-30, or None. It helps to identify a person: split by it, never
            write it out.
        annotated: whether its header says that text is burned into the picture (DICOM only).
    """

    pixels: np.ndarray
    full_range: float
    bits: int
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)
    patient: str | None = None
    notes: tuple[str, ...] = ()
    pixel_aspect: float = 1.0
    date: str | None = None
    annotated: bool = False


def check_size(height: int, width: int, limits: Limits) -> None:
    """Raises DecodeError for a picture above the limit or too small to be a radiograph."""
    if height * width > limits.max_pixels:
        raise DecodeError(f"{width}x{height} pixels are over the limit of {limits.max_pixels}")
    if min(height, width) < limits.min_side:
        raise DecodeError(f"{width}x{height} pixels: the shorter side is under {limits.min_side}")


def luminance(colour: np.ndarray, full_range: float, alpha: np.ndarray | None = None) -> np.ndarray:
    """Grey or RGB of any real dtype -> float32 (H, W), Rec. 601; equal channels are taken as they are.

    Args:
        colour: (H, W), (H, W, 1) or (H, W, 3).
        full_range: the value of an opaque `alpha`.
        alpha: (H, W) transparency to compose over black with, of colour that is not multiplied by it yet.
    """
    colour = colour.astype(np.float32)
    if colour.ndim == 2:
        grey = colour
    elif colour.shape[-1] == 1 or (colour == colour[..., :1]).all():
        grey = colour[..., 0]
    else:
        grey = colour @ _REC601
    if alpha is not None and (alpha != full_range).any():
        grey = grey * (alpha.astype(np.float32) / np.float32(full_range))
    return grey


def wide(pixels: np.ndarray, bits: int, notes: tuple[str, ...] = ()) -> Radiograph:
    """32-bit integers and floats say nothing about their range: it is taken from the data.

    Single precision holds neither every float64 nor a small contrast upon a large offset: such pixels are shifted,
    and scaled where they must be, before they are rounded.

    Args:
        pixels: (H, W), any real dtype.
        bits: of a sample.
        notes: that the radiograph begins with.

    Raises:
        DecodeError: NaN or infinite pixels.
    """
    bad = int(np.count_nonzero(~np.isfinite(pixels))) if pixels.dtype.kind == "f" else 0
    if bad:
        raise DecodeError(f"{bad} pixels are NaN or infinite")
    low, high = (np.longdouble(end) for end in (pixels.min(), pixels.max()))
    largest, span = max(abs(low), abs(high)), high - low
    notes = (*notes, "full range taken from the data")
    single = np.finfo(np.float32)
    if max(largest, span) > single.max / 4 or 0 < span < single.tiny * 2**24:
        scaled = ((pixels.astype(np.longdouble) - low) / (span or 1)).astype(np.float32)
        return Radiograph(scaled, 1.0, bits, notes=(*notes, "scaled to [0, 1]: beyond single precision"))
    if span < largest * single.eps * 2**10:
        shifted = (pixels.astype(np.longdouble) - low).astype(np.float32)
        return Radiograph(
            shifted, float(span) or 1.0, bits, notes=(*notes, "its darkest value is taken as 0")
        )
    rounded = pixels.astype(np.float32)
    return Radiograph(rounded, float(rounded.max() - rounded.min()) or 1.0, bits, notes=notes)
