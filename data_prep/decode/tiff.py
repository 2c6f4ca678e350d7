"""TIFF (Adobe, TIFF 6.0, 1992): one decoder, tifffile with imagecodecs, and one meaning for what it gives."""

import dataclasses
import io
import logging

import numpy as np
import tifffile
from tifffile import COMPRESSION, EXTRASAMPLE, PHOTOMETRIC, PLANARCONFIG

from data_prep.decode.radiograph import DecodeError, Limits, Radiograph, check_size, luminance, wide

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # its warnings name no file

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Those that are decoded into a buffer of the size that the header promises, and JPEG, which states its own.
_COMPRESSIONS = {
    COMPRESSION.NONE,
    *(COMPRESSION.CCITTRLE, COMPRESSION.CCITT_T4, COMPRESSION.CCITT_T6, COMPRESSION.PACKBITS),
    *(COMPRESSION.LZW, COMPRESSION.ADOBE_DEFLATE, COMPRESSION.DEFLATE, COMPRESSION.ZSTD, COMPRESSION.LZMA),
    COMPRESSION.JPEG,
}
_COLOURS: dict[int, int] = {
    PHOTOMETRIC.MINISWHITE: 1,
    PHOTOMETRIC.MINISBLACK: 1,
    PHOTOMETRIC.PALETTE: 1,
    PHOTOMETRIC.RGB: 3,
    PHOTOMETRIC.YCBCR: 3,
    PHOTOMETRIC.SEPARATED: 4,
}
# A tile may be larger than the picture, but not without bound.
_LARGEST_TILE_BYTES = 64 * 2**20
_REDUCED_OR_MASK = 0b101


def decode_tiff(data: bytes, limits: Limits) -> Radiograph:
    """Decodes a TIFF; see `data_prep.decode.decode`.

    Raises:
        DecodeError: more than one picture, one of a kind that no radiograph has, or not all of it.
    """
    try:
        # The stream is closed too: tifffile's objects, which refer to each other, hold it until they are collected.
        with io.BytesIO(data) as stream, tifffile.TiffFile(stream) as tiff:
            page = _single_page(tiff)
            _check(page, data, limits)
            pixels = page.asarray()
            return _meaning(page, pixels)
    except (DecodeError, MemoryError):
        raise
    except Exception:  # whatever a damaged file makes tifffile and its decoders raise
        raise DecodeError(
            "the file is damaged: its TIFF structure or its compressed data do not read"
        ) from None


def _single_page(tiff: tifffile.TiffFile) -> tifffile.TiffPage:
    """The one picture. Reduced versions of it and masks beside it are passed over."""
    whole = []
    for count, page in enumerate(tiff.pages):
        if count > 16:
            raise DecodeError("more than 16 pages; one radiograph a file is needed")
        if not isinstance(page, tifffile.TiffPage):
            page = page.aspage()
        if not page.subfiletype & _REDUCED_OR_MASK:
            whole.append(page)
    if len(whole) != 1:
        raise DecodeError(f"{len(whole)} pages; one radiograph a file is needed")
    # ImageJ, MetaMorph and others keep a whole stack behind one page.
    series = tiff.series
    pictures = sum(one.size for one in series) / whole[0].size if tiff.is_imagej or tiff.is_stk else 1
    if pictures > 1 or whole[0].imagedepth != 1:
        raise DecodeError(
            f"a stack of {max(pictures, whole[0].imagedepth):.0f} pictures; one radiograph a file is needed"
        )
    return whole[0]


def _check(page: tifffile.TiffPage, data: bytes, limits: Limits) -> None:
    """Everything that the header says, before a pixel is decoded."""
    check_size(page.imagelength, page.imagewidth, limits)
    if page.photometric not in _COLOURS:
        name = getattr(page.photometric, "name", page.photometric)
        raise DecodeError(f"a TIFF whose colours are {name}, which no radiograph has; export it in grey")
    if page.compression not in _COMPRESSIONS:
        name = getattr(page.compression, "name", page.compression)
        raise DecodeError(f"a TIFF compressed by {name}; store it uncompressed, as deflate or LZW")
    if page.dtype is None or page.dtype.kind not in "biuf" or not isinstance(page.bitspersample, int):
        raise DecodeError(
            "a TIFF whose samples are neither whole numbers nor floats of one size; export it in grey"
        )
    if not _COLOURS[page.photometric] <= page.samplesperpixel <= _COLOURS[page.photometric] + 1:
        raise DecodeError(
            f"a TIFF of {page.samplesperpixel} samples a pixel; a radiograph has 1, a picture in colour 3, and one "
            "for transparency"
        )
    if page.photometric == PHOTOMETRIC.YCBCR and page.compression != COMPRESSION.JPEG:
        raise DecodeError("a TIFF whose colours are YCbCr without JPEG; export it in grey")
    if page.photometric == PHOTOMETRIC.PALETTE and page.colormap is None:
        raise DecodeError("a TIFF with a palette that is missing")
    item = page.dtype.itemsize
    if page.imagelength * page.imagewidth * page.samplesperpixel * item > 8 * limits.max_pixels:
        raise DecodeError(f"its pixels unpack to more than 8 bytes for each of {limits.max_pixels} pixels")
    tile = int(np.prod(page.chunks)) * item
    if page.is_tiled and tile > max(page.nbytes, _LARGEST_TILE_BYTES):
        raise DecodeError(f"a TIFF with tiles of {tile} bytes, larger than the whole picture")
    if len(page.dataoffsets) != len(page.databytecounts) or not page.dataoffsets:
        raise DecodeError("the file is damaged: parts of its picture are not where they should be")
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        if count and offset + count > len(data):
            raise DecodeError("the file is cut short: part of its picture is missing")
        if not count:
            raise DecodeError("the file is damaged: part of its picture is empty")


def _meaning(page: tifffile.TiffPage, pixels: np.ndarray) -> Radiograph:
    """Samples to luminance: planes, orientation, palette, transparency, white is zero."""
    if page.planarconfig == PLANARCONFIG.SEPARATE and page.samplesperpixel > 1:
        pixels = np.moveaxis(pixels, 0, -1)
    orientation = page.tags.get("Orientation")
    pixels = _orient(pixels, int(orientation.value) if orientation else 1)
    bits = 1 if pixels.dtype == bool else page.bitspersample
    pixels = pixels.astype(np.uint8) if pixels.dtype == bool else pixels
    full_range = float(2**bits - 1)
    pixels, alpha, notes = _without_alpha(page, pixels, full_range)
    if page.photometric == PHOTOMETRIC.PALETTE:
        return dataclasses.replace(_from_palette(page, pixels), notes=notes)
    if page.photometric == PHOTOMETRIC.SEPARATED:
        black = full_range - pixels[..., 3:].astype(np.float32)
        pixels = (full_range - pixels[..., :3].astype(np.float32)) * black / full_range
    if pixels.dtype.kind == "f" or bits > 16 or (pixels.dtype.kind == "i" and pixels.min() < 0):
        grey = pixels if pixels.ndim == 2 else _grey_wide(pixels)
        image = wide(grey, bits, notes)
    else:
        image = Radiograph(luminance(pixels, full_range, alpha), full_range, bits, notes=notes)
    if page.photometric == PHOTOMETRIC.MINISWHITE:
        held = pixels.dtype.kind == "u" and bits <= 16
        top = image.full_range if held else float(image.pixels.max() + image.pixels.min())
        return dataclasses.replace(image, pixels=np.float32(top) - image.pixels)
    return image


def _without_alpha(
    page: tifffile.TiffPage, pixels: np.ndarray, full_range: float
) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]:
    """Colour, what of a further sample is a transparency to compose with, and notes.

    Tag 338 (ExtraSamples): 0 or absent means nothing, 1 is an alpha that the colour is multiplied by already, 2 one
    that it is not.
    """
    count = _COLOURS[page.photometric]
    if page.samplesperpixel == count:
        return pixels, None, ()
    colour, extra = pixels[..., :count], pixels[..., count]
    colour = colour[..., 0] if count == 1 else colour
    if page.extrasamples and page.extrasamples[0] == EXTRASAMPLE.UNASSALPHA:
        if not extra.any():
            return colour, None, ("its alpha is zero everywhere and was ignored",)
        if pixels.dtype.kind == "u" and page.bitspersample <= 16:
            return colour, extra, ()
        return colour, None, ("its alpha was ignored",)
    if page.extrasamples and page.extrasamples[0] == EXTRASAMPLE.ASSOCALPHA:
        return colour, None, ()
    return colour, None, ("its extra sample, which is no alpha, was ignored",)


def _from_palette(page: tifffile.TiffPage, indices: np.ndarray) -> Radiograph:
    """Tag 320: 16-bit colours; those of 8-bit palettes are multiples of 257 or, by some writers, of 256 or 1."""
    palette = np.asarray(page.colormap, np.int64).T
    if indices.max() >= len(palette):
        raise DecodeError("the file is damaged: it uses colours that its palette does not have")
    if palette.max() < 256:
        palette = palette * 257
    colours = palette[indices].astype(np.float64)
    return Radiograph(luminance(colours / 257, 255.0), 255.0, 8)


def _grey_wide(colour: np.ndarray) -> np.ndarray:
    """Luminance of RGB in the precision that it has."""
    if (colour == colour[..., :1]).all():
        return colour[..., 0]
    return colour.astype(np.float64) @ np.array([0.299, 0.587, 0.114])


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
