"""One image file to float32 luminance in its own units: PNG, JPEG, TIFF, BMP and DICOM, 8 and 16 bit.

The format is taken from the content, never from the extension. Files are untrusted: everything that cannot
be read as exactly one greyscale-reducible radiograph raises `DecodeError` with a reason for `quarantine.csv`.
"""

import io
import os
import stat
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
import tifffile
from PIL import Image, ImageOps, UnidentifiedImageError
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut

# Luminance of ITU-R BT.601, the weights of JPEG and of Pillow's mode "L".
_REC601 = np.array([0.299, 0.587, 0.114], np.float32)
_PIL_FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
# Header fields that describe the acquisition. Names, dates and institutions stay out: they identify people.
_DICOM_METADATA = {
    "PatientSex": "sex",
    "BodyPartExamined": "site",
    "ViewPosition": "view",
    "Modality": "modality",
    "Manufacturer": "manufacturer",
    "ManufacturerModelName": "manufacturer_model",
}
_YEARS = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}


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


def read_bytes(path: Path, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """The content of a regular file, size checked first.

    Raises:
      DecodeError: it is missing, not a regular file, empty, too large or unreadable.
    """
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise DecodeError("is a folder")
        if not stat.S_ISREG(status.st_mode):
            raise DecodeError("not a regular file (pipe, socket or device)")
        if status.st_size == 0:
            raise DecodeError("empty file (0 bytes)")
        if status.st_size > limits.max_bytes:
            raise DecodeError(f"file of {status.st_size} bytes is over the limit of {limits.max_bytes}")
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise DecodeError("no such file") from None
    except OSError as error:
        raise DecodeError(f"cannot be read: {error.strerror or error}") from None


def decode(data: bytes, limits: Limits = DEFAULT_LIMITS) -> Radiograph:
    """Decodes the bytes of one image file.

    Colour becomes luminance (Rec. 601); equal channels are taken as they are, so that a grey image stored in
    colour equals its grey original. Transparency is composed over black. EXIF/TIFF orientation is applied.
    DICOM goes through the modality LUT, the VOI LUT or window, and MONOCHROME1 is inverted.

    Raises:
      DecodeError: with the reason, for anything that is not one radiograph within the limits.
    """
    try:
        if data[128:132] == b"DICM":
            image = _decode_dicom(data, limits)
        elif data[:4] in _TIFF_MAGIC:
            image = _decode_tiff(data, limits)
        else:
            image = _decode_pil(data, limits)
    except DecodeError:
        raise
    except MemoryError:
        raise DecodeError("needs more memory than there is") from None
    except Exception as error:  # the decoders raise whatever a damaged file makes them raise
        raise DecodeError(f"damaged or unsupported: {_one_line(error)}") from None
    if not np.isfinite(image.pixels).all():
        raise DecodeError(f"{int((~np.isfinite(image.pixels)).sum())} pixels are NaN or infinite")
    return image


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or "no details"
    return f"{type(error).__name__}: {text[:200]}"


def _check_size(height: int, width: int, limits: Limits) -> None:
    if height * width > limits.max_pixels:
        raise DecodeError(f"{width}x{height} pixels are over the limit of {limits.max_pixels}")
    if min(height, width) < limits.min_side:
        raise DecodeError(f"{width}x{height} pixels: the shorter side is under {limits.min_side}")


def _luminance(pixels: np.ndarray, full_range: float) -> np.ndarray:
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


def _decode_pil(data: bytes, limits: Limits) -> Radiograph:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is checked below
        try:
            image = Image.open(io.BytesIO(data), formats=_PIL_FORMATS)
        except UnidentifiedImageError:
            raise DecodeError("not a PNG, JPEG, TIFF, BMP or DICOM file") from None
        except Image.DecompressionBombError:
            raise DecodeError(f"its pixels are over the limit of {limits.max_pixels}") from None
        with image:
            _check_size(image.height, image.width, limits)
            if image.format in ("PNG", "TIFF") and getattr(image, "n_frames", 1) > 1:
                raise DecodeError(f"{image.n_frames} frames; one radiograph a file is needed")
            return _from_pil(image, data)


def _from_pil(image: Image.Image, data: bytes) -> Radiograph:
    notes: tuple[str, ...] = ()
    if data.startswith(_PNG_MAGIC) and data[24] == 16 and data[25] in (2, 4, 6):
        notes = ("16-bit PNG with colour or alpha read at 8 bits",)
    transparency = "transparency" in image.info
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        return Radiograph(np.asarray(image).astype(np.float32), 65535.0, 16)
    if image.mode in ("I", "F"):
        return _wide(np.asarray(image), bits=32)
    if image.mode == "1":
        return Radiograph(np.asarray(image).astype(np.float32), 1.0, 1)
    if image.mode == "L" and not transparency:
        return Radiograph(np.asarray(image).astype(np.float32), 255.0, 8)
    with_alpha = transparency or image.mode in ("LA", "La", "PA", "RGBA", "RGBa")
    pixels = np.asarray(image.convert("RGBA" if with_alpha else "RGB"))
    return Radiograph(_luminance(pixels, 255.0), 255.0, 8, notes=notes)


def _wide(pixels: np.ndarray, bits: int) -> Radiograph:
    """32-bit integers and floats say nothing about their range: it is taken from the data."""
    pixels = pixels.astype(np.float32)
    finite = pixels[np.isfinite(pixels)]
    span = float(finite.max() - finite.min()) if finite.size else 0.0
    return Radiograph(pixels, span or 1.0, bits, notes=("full range taken from the data",))


def _decode_tiff(data: bytes, limits: Limits) -> Radiograph:
    """TIFF by tifffile, which keeps 16-bit colour and floats; compressions it lacks go to Pillow."""
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        if len(tiff.pages) != 1:
            raise DecodeError(f"{len(tiff.pages)} pages; one radiograph a file is needed")
        page = tiff.pages[0]
        _check_size(page.imagelength, page.imagewidth, limits)
        if page.imagedepth != 1 or page.samplesperpixel > 4:
            raise DecodeError(f"TIFF of {page.imagedepth} slices and {page.samplesperpixel} samples a pixel")
        photometric = tifffile.PHOTOMETRIC(page.photometric).name
        inverted = photometric == "MINISWHITE"
        if photometric not in ("MINISBLACK", "MINISWHITE", "RGB"):
            return _decode_pil(data, limits)
        try:
            pixels = page.asarray()
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            return _decode_compressed_tiff(data, page.bitspersample, inverted, limits)
        planar = page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and page.samplesperpixel > 1
        orientation = page.tags.get("Orientation")
        bits = page.bitspersample
    if planar:
        pixels = np.moveaxis(pixels, 0, -1)
    pixels = _orient(pixels, int(orientation.value) if orientation else 1)
    if pixels.dtype == bool:
        bits = 1
    if pixels.dtype.kind == "f" or bits > 16 or (pixels.dtype.kind == "i" and pixels.min() < 0):
        pixels = pixels if pixels.ndim == 2 else pixels[..., :3]
        image = _wide(_luminance(pixels, 1.0), bits)
    else:
        full_range = float(2**bits - 1)
        image = Radiograph(_luminance(pixels, full_range), full_range, bits)
    if inverted:
        top = image.full_range if image.pixels.min() >= 0 else float(image.pixels.max() + image.pixels.min())
        return Radiograph(top - image.pixels, image.full_range, image.bits, notes=image.notes)
    return image


def _decode_compressed_tiff(data: bytes, bits: int, inverted: bool, limits: Limits) -> Radiograph:
    image = _decode_pil(data, limits)
    if bits > 8 and image.bits == 8:
        raise DecodeError("compressed 16-bit colour TIFF; store it uncompressed or as deflate")
    if inverted and image.bits > 8:  # Pillow inverts white-is-zero itself, but only up to 8 bits
        return Radiograph(image.full_range - image.pixels, image.full_range, image.bits)
    return image


def _orient(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Applies the TIFF/EXIF orientation (TIFF 6.0, tag 274) to rows and columns."""
    transforms = {
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
        8: lambda a: np.rot90(a, 1),
    }
    return np.ascontiguousarray(transforms.get(orientation, lambda a: a)(pixels))


def _decode_dicom(data: bytes, limits: Limits) -> Radiograph:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns about every unusual value; what matters raises below
        dataset = pydicom.dcmread(io.BytesIO(data))
        if "PixelData" not in dataset:
            raise DecodeError("DICOM without pixel data")
        frames = int(dataset.get("NumberOfFrames") or 1)
        if frames != 1:
            raise DecodeError(f"multi-frame DICOM ({frames} frames); one radiograph a file is needed")
        _check_size(int(dataset.Rows), int(dataset.Columns), limits)
        pixels, full_range, padding = _dicom_pixels(dataset)
    if padding.any() and not padding.all():
        # Padding is no measurement: as the darkest real value it neither stretches the range nor stands out.
        pixels = np.where(padding, pixels[~padding].min(), pixels)
    metadata = {name: str(dataset.get(key, "") or "").strip() for key, name in _DICOM_METADATA.items()}
    metadata["age"] = _age_in_years(str(dataset.get("PatientAge", "") or ""))
    return Radiograph(
        pixels.astype(np.float32),
        full_range,
        int(dataset.BitsStored),
        {name: value for name, value in metadata.items() if value},
        str(dataset.get("PatientID", "") or "").strip() or None,
    )


def _dicom_pixels(dataset: pydicom.Dataset) -> tuple[np.ndarray, float, np.ndarray]:
    """Presentation values, their full range, and the mask of padding pixels (DICOM PS3.3 C.7.6.3, C.11)."""
    photometric = str(dataset.PhotometricInterpretation)
    stored = dataset.pixel_array
    bits = int(dataset.BitsStored)
    if photometric == "PALETTE COLOR":
        stored = apply_color_lut(stored, dataset)
        bits = 8 * stored.itemsize
    if not photometric.startswith("MONOCHROME"):
        full_range = float(2**bits - 1)
        return _luminance(stored[..., :3], full_range), full_range, np.zeros(stored.shape[:2], bool)
    padding = np.zeros(stored.shape, bool)
    if "PixelPaddingValue" in dataset:
        first = int(dataset.PixelPaddingValue)
        last = int(dataset.get("PixelPaddingRangeLimit", first))
        padding = (stored >= min(first, last)) & (stored <= max(first, last))
    rescaled = apply_modality_lut(stored, dataset)
    shown = apply_voi_lut(rescaled, dataset).astype(np.float64)
    low, high = _presentation_range(dataset)
    if photometric == "MONOCHROME1":
        shown = low + high - shown
    return shown, high - low, padding


def _presentation_range(dataset: pydicom.Dataset) -> tuple[float, float]:
    """Smallest and largest value that `apply_voi_lut(apply_modality_lut(...))` can give."""
    if dataset.get("VOILUTSequence"):
        return 0.0, float(2 ** _lut_bits(dataset.VOILUTSequence[0]) - 1)
    if dataset.get("ModalityLUTSequence"):
        return 0.0, float(2 ** _lut_bits(dataset.ModalityLUTSequence[0]) - 1)
    bits = int(dataset.BitsStored)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if dataset.PixelRepresentation else (0, 2**bits - 1)
    slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
    ends = sorted((low * slope + intercept, high * slope + intercept))
    return ends[0], ends[1]


def _lut_bits(item: pydicom.Dataset) -> int:
    """Bits of an entry of a lookup table: the third value of its descriptor, 8 to 16."""
    return int(item.LUTDescriptor[2])


def _age_in_years(value: str) -> str:
    """DICOM age string (PS3.5: nnnD, nnnW, nnnM, nnnY) in years, or '' where it is none."""
    value = value.strip()
    if len(value) == 4 and value[:3].isdigit() and value[3] in _YEARS:
        return f"{int(value[:3]) * _YEARS[value[3]]:g}"
    return ""
