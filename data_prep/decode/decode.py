"""One image file to float32 luminance in its own units: PNG, JPEG, TIFF, BMP and DICOM, 8 and 16 bit.

The format is taken from the content, never from the extension. Files are untrusted: everything that cannot
be read as exactly one greyscale-reducible radiograph raises `DecodeError` with a reason for `quarantine.csv`.
"""

import logging
import os
import stat
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data_prep.decode.dicom import decode_dicom, looks_like_dicom
from data_prep.decode.pillow import decode_pillow
from data_prep.decode.radiograph import DEFAULT_LIMITS, DecodeError, Limits, Radiograph
from data_prep.decode.tiff import MAGIC as TIFF_MAGIC
from data_prep.decode.tiff import decode_tiff
from osteojax.errors import untold

log = logging.getLogger(__name__)

# What is handed in by mistake, by its first bytes, and what to do with it.
_OTHERS = {
    b"GIF8": "a GIF picture; save it as PNG",
    b"%PDF": "a PDF document; export its pictures as PNG",
    b"PK\x03\x04": "a ZIP archive; unpack it",
    b"\x1f\x8b": "a gzip archive; unpack it",
    b"7z\xbc\xaf": "a 7-Zip archive; unpack it",
    b"Rar!": "a RAR archive; unpack it",
    b"\x93NUMPY": "a NumPy array; save it as PNG or TIFF",
    b"\x89HDF": "an HDF5 file; save its pictures as PNG or TIFF",
    b"\0\0\0\x0cjP  ": "a JPEG 2000 picture outside DICOM; save it as PNG",
    b"\xff\x4f\xff\x51": "a JPEG 2000 picture outside DICOM; save it as PNG",
    b"\xff\x0a": "a JPEG XL picture; save it as PNG",
    b"\0\0\0\x0cJXL ": "a JPEG XL picture; save it as PNG",
    b"version https://git-lfs": "a Git LFS pointer, not the file; fetch it with git lfs pull",
    b"<!DOCTYPE": "a web page, perhaps a failed download",
    b"<html": "a web page, perhaps a failed download",
    b"<?xml": "an XML file",
    b"<svg": "an SVG drawing",
    b"\x5c\x01\0\0": "a NIfTI volume",
    b"P5": "a PGM picture; save it as PNG",
    b"P6": "a PPM picture; save it as PNG",
}


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
        check_size(status.st_size, limits)
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise DecodeError("no such file") from None
    except OSError as error:
        raise DecodeError(f"cannot be read: {error.strerror or error}") from None


def check_size(size: int, limits: Limits = DEFAULT_LIMITS) -> None:
    """Raises DecodeError for a file of no byte, or of more than are taken."""
    if size == 0:
        raise DecodeError("empty file (0 bytes)")
    if size > limits.max_bytes:
        raise DecodeError(f"file of {size} bytes is over the limit of {limits.max_bytes}")


def decode(data: bytes, limits: Limits = DEFAULT_LIMITS) -> Radiograph:
    """Decodes the bytes of one image file.

    Colour becomes luminance (Rec. 601); equal channels are taken as they are, so that a grey image stored in
    colour equals its grey original. Transparency is composed over black. EXIF/TIFF orientation is applied.
    DICOM goes through the modality LUT, the VOI LUT or window, and MONOCHROME1 is inverted.

    Returns:
        The radiograph; its pixels are finite and not all equal.

    Raises:
        DecodeError: with the reason, for anything that is not one radiograph within the limits.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # libraries' own: they may quote the header, and name no file
            image = _reader(data)(data, limits)
    except DecodeError:
        raise
    except MemoryError:
        raise DecodeError("needs more memory than there is") from None
    except Exception as error:  # the decoders raise whatever a damaged file makes them raise
        log.debug("a decoder failed: %s", untold(error))
        raise DecodeError("the file is damaged, or of a kind that cannot be read") from None
    bad = int(np.count_nonzero(~np.isfinite(image.pixels)))
    if bad:
        raise DecodeError(f"{bad} pixels are NaN or infinite")
    if image.pixels.min() == image.pixels.max():
        raise DecodeError("the picture is blank: all its pixels have the same value")
    return image


def _reader(data: bytes) -> Callable[[bytes, Limits], Radiograph]:
    """The reader of the format that the first bytes tell."""
    if data[:4] in TIFF_MAGIC and data[128:132] != b"DICM":
        return decode_tiff
    if looks_like_dicom(data):
        return decode_dicom
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        raise DecodeError("a WebP picture; save it as PNG")
    if data[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypavif"):
        raise DecodeError("a HEIF or AVIF picture; save it as PNG")
    for magic, what in _OTHERS.items():
        if data.startswith(magic):
            raise DecodeError(f"not a PNG, JPEG, TIFF, BMP or DICOM file but {what}")
    if not data.strip(b"\0"):
        raise DecodeError("the file holds nothing but zeros, as after a broken copy")
    return decode_pillow
