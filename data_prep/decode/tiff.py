"""TIFF."""

import io

import numpy as np
import tifffile

from data_prep.decode.pillow import decode_pillow
from data_prep.decode.radiograph import DecodeError, Limits, Radiograph, check_size, luminance, wide


def decode_tiff(data: bytes, limits: Limits) -> Radiograph:
    """TIFF by tifffile, which keeps 16-bit colour and floats; compressions it lacks go to Pillow."""
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        if len(tiff.pages) != 1:
            raise DecodeError(f"{len(tiff.pages)} pages; one radiograph a file is needed")
        page = tiff.pages[0]
        check_size(page.imagelength, page.imagewidth, limits)
        if page.imagedepth != 1 or page.samplesperpixel > 4:
            raise DecodeError(f"TIFF of {page.imagedepth} slices and {page.samplesperpixel} samples a pixel")
        photometric = tifffile.PHOTOMETRIC(page.photometric).name
        inverted = photometric == "MINISWHITE"
        if photometric not in ("MINISBLACK", "MINISWHITE", "RGB"):
            return decode_pillow(data, limits)
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
        image = wide(luminance(pixels, 1.0), bits)
    else:
        full_range = float(2**bits - 1)
        image = Radiograph(luminance(pixels, full_range), full_range, bits)
    if inverted:
        top = image.full_range if image.pixels.min() >= 0 else float(image.pixels.max() + image.pixels.min())
        return Radiograph(top - image.pixels, image.full_range, image.bits, notes=image.notes)
    return image


def _decode_compressed_tiff(data: bytes, bits: int, inverted: bool, limits: Limits) -> Radiograph:
    image = decode_pillow(data, limits)
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
