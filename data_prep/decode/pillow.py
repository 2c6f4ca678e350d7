"""PNG, JPEG, BMP, and the TIFF compressions that only Pillow reads."""

import io
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from data_prep.decode.radiograph import DecodeError, Limits, Radiograph, check_size, luminance, wide

_PIL_FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def decode_pillow(data: bytes, limits: Limits) -> Radiograph:
    """Decodes by Pillow; see `data_prep.decode.decode`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is checked below
        try:
            image = Image.open(io.BytesIO(data), formats=_PIL_FORMATS)
        except UnidentifiedImageError:
            raise DecodeError("not a PNG, JPEG, TIFF, BMP or DICOM file") from None
        except Image.DecompressionBombError:
            raise DecodeError(f"its pixels are over the limit of {limits.max_pixels}") from None
        with image:
            check_size(image.height, image.width, limits)
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
        return wide(np.asarray(image), bits=32)
    if image.mode == "1":
        return Radiograph(np.asarray(image).astype(np.float32), 1.0, 1)
    if image.mode == "L" and not transparency:
        return Radiograph(np.asarray(image).astype(np.float32), 255.0, 8)
    with_alpha = transparency or image.mode in ("LA", "La", "PA", "RGBA", "RGBa")
    pixels = np.asarray(image.convert("RGBA" if with_alpha else "RGB"))
    return Radiograph(luminance(pixels, 255.0), 255.0, 8, notes=notes)
