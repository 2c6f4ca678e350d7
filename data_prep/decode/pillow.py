"""PNG, JPEG and BMP by Pillow; what it would reduce to 8 bits by the codecs themselves."""

import io
import logging

import imagecodecs
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from data_prep.decode.codestream import decode_codestream, is_cut, read_codestream
from data_prep.decode.radiograph import DecodeError, Limits, Radiograph, check_size, luminance, wide

logging.getLogger("PIL").setLevel(logging.WARNING)  # below it quotes EXIF and text

# A JPEG that holds further pictures, previews mostly, opens as MPO.
_FORMATS = ("PNG", "JPEG", "BMP")
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_JPEG_MAGIC, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
# Colour types of a PNG: grey, RGB, palette, grey and alpha, RGB and alpha (ISO 15948, table 11.1).
_GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGB_ALPHA = 0, 2, 3, 4, 6


def decode_pillow(data: bytes, limits: Limits) -> Radiograph:
    """Decodes a PNG, JPEG or BMP; see `data_prep.decode.decode`.

    Raises:
        DecodeError: another format, more than one picture, or not all of it.
    """
    notes: tuple[str, ...] = ()
    if data.startswith(_JPEG_MAGIC):
        header = read_codestream(data)
        check_size(header.rows, header.columns, limits)
        if header.precision != 8 or header.lossless:
            return _unusual_jpeg(data)
        data, notes = _whole_jpeg(data)
    image = _open(data, limits)
    with image:
        check_size(image.height, image.width, limits)
        if image.format == "PNG" and getattr(image, "n_frames", 1) > 1:
            raise DecodeError(f"{image.n_frames} frames; one radiograph a file is needed")  # type: ignore[attr-defined]
        if image.format == "MPO":
            notes = (*notes, "the first of several pictures in one JPEG")
        try:
            return _from_pillow(image, data, notes)
        except (DecodeError, MemoryError):
            raise
        except Exception:  # OSError, SyntaxError and others, of damaged data
            raise DecodeError(
                f"the file is damaged or cut short: its {image.format} data do not decode"
            ) from None


def _open(data: bytes, limits: Limits) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=_FORMATS)
    except UnidentifiedImageError:
        raise DecodeError(
            "not a PNG, JPEG, TIFF, BMP or DICOM file, or one whose header is damaged"
        ) from None
    except Image.DecompressionBombError:
        raise DecodeError(f"its pixels are over the limit of {limits.max_pixels}") from None
    except MemoryError:
        raise
    except Exception:  # a damaged header makes Pillow raise whatever it finds
        raise DecodeError("the file is damaged: its header does not read") from None


def _whole_jpeg(data: bytes) -> tuple[bytes, tuple[str, ...]]:
    """The JPEG and notes; raises DecodeError where part of the picture is missing."""
    notes: tuple[str, ...] = ()
    if _JPEG_END not in data[-64:]:
        # A file of several pictures ends in the last one's; else only the end marker may be missing.
        end = data.rfind(_JPEG_END)
        if end < 0 or data.rfind(b"\xff\xda") > end:
            data, notes = data + _JPEG_END, ("its end marker is missing",)

    def pixels(stream: bytes) -> np.ndarray:
        try:
            with Image.open(io.BytesIO(stream), formats=("JPEG",)) as image:
                return np.asarray(image)
        except MemoryError:
            raise
        except Exception:
            raise DecodeError("the file is damaged or cut short: its JPEG data do not decode") from None

    if is_cut(data, pixels(data), pixels):
        raise DecodeError("the file is cut short: part of its JPEG picture is missing")
    return data, notes


def _unusual_jpeg(data: bytes) -> Radiograph:
    """A JPEG of more than 8 bits, or lossless: in grey alone."""
    header = read_codestream(data)
    if header.samples != 1:
        raise DecodeError(f"a JPEG of {header.precision} bits in colour; export it in grey or as PNG")
    pixels = decode_codestream(data, header)
    return Radiograph(pixels.astype(np.float32), float(2**header.precision - 1), header.precision)


def _from_pillow(image: Image.Image, data: bytes, notes: tuple[str, ...]) -> Radiograph:
    if data.startswith(_PNG_MAGIC) and data[24] == 16 and data[25] != _GREY:
        return _deep_png(image, data, notes)
    key = image.info.get("transparency")
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I;16") or (image.mode == "I" and data.startswith(_PNG_MAGIC)):
        pixels = np.asarray(image).astype(np.float32)
        if isinstance(key, int):
            pixels = np.where(pixels == key, np.float32(0), pixels)  # over black
        return Radiograph(pixels, 65535.0, 16, notes=notes)
    if image.mode in ("I", "F"):
        return wide(np.asarray(image), 32, notes)
    if image.mode == "1":
        return Radiograph(np.asarray(image).astype(np.float32), 1.0, 1, notes=notes)
    if image.mode == "L" and key is None:
        return Radiograph(np.asarray(image).astype(np.float32), 255.0, 8, notes=notes)
    if key is not None or image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        return _composed(np.asarray(image.convert("RGBA")), 255.0, 8, notes)
    return Radiograph(luminance(np.asarray(image.convert("RGB")), 255.0), 255.0, 8, notes=notes)


def _deep_png(image: Image.Image, data: bytes, notes: tuple[str, ...]) -> Radiograph:
    """16-bit colour or alpha, which Pillow reads at 8 bits."""
    image.load()  # Pillow checks every chunk; libpng is more lenient
    pixels = imagecodecs.png_decode(data)
    if pixels.shape[-1] in (2, 4):
        return _composed(pixels, 65535.0, 16, notes)
    return Radiograph(luminance(pixels, 65535.0), 65535.0, 16, notes=notes)


def _composed(pixels: np.ndarray, full_range: float, bits: int, notes: tuple[str, ...]) -> Radiograph:
    """Colour over black; an alpha that is zero everywhere is one that its writer forgot."""
    colour, alpha = pixels[..., :-1], pixels[..., -1]
    if not alpha.any():
        notes = (*notes, "its alpha is zero everywhere and was ignored")
        return Radiograph(luminance(colour, full_range), full_range, bits, notes=notes)
    return Radiograph(luminance(colour, full_range, alpha), full_range, bits, notes=notes)
