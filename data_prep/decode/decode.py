"""One image file to float32 luminance in its own units: PNG, JPEG, TIFF, BMP and DICOM, 8 and 16 bit.

The format is taken from the content, never from the extension. Files are untrusted: everything that cannot
be read as exactly one greyscale-reducible radiograph raises `DecodeError` with a reason for `quarantine.csv`.
"""

import os
import stat
from pathlib import Path

import numpy as np

from data_prep.decode.dicom import decode_dicom
from data_prep.decode.pillow import decode_pillow
from data_prep.decode.radiograph import DEFAULT_LIMITS, DecodeError, Limits, Radiograph
from data_prep.decode.tiff import decode_tiff

_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


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
            image = decode_dicom(data, limits)
        elif data[:4] in _TIFF_MAGIC:
            image = decode_tiff(data, limits)
        else:
            image = decode_pillow(data, limits)
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
