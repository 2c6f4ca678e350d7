"""Decoding: every supported format against the pixels that went in, every unusable file with its reason."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from data_prep.decode import DecodeError, Limits, decode, read_bytes
from tests.data_prep.decode.dicom_files import dicom

SMALL = Limits(min_side=1)
GREY8 = np.random.default_rng(0).integers(0, 256, (40, 50), dtype=np.uint8)
GREY16 = np.random.default_rng(1).integers(0, 65536, (40, 50), dtype=np.uint16)
COLOUR = np.random.default_rng(2).integers(0, 256, (40, 50, 3), dtype=np.uint8)


def encoded(image: Image.Image, form: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def tiff(pixels: np.ndarray, **options) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels, **options)
    return stream.getvalue()


def rec601(colour: np.ndarray) -> np.ndarray:
    return colour.astype(np.float64) @ [0.299, 0.587, 0.114]


@pytest.mark.parametrize("form", ["PNG", "TIFF", "BMP"])
def test_8_bit_grey_is_read_exactly(form):
    image = decode(encoded(Image.fromarray(GREY8), form))
    np.testing.assert_array_equal(image.pixels, GREY8)
    assert (image.pixels.dtype, image.full_range, image.bits) == (np.float32, 255.0, 8)


@pytest.mark.parametrize("data", [encoded(Image.fromarray(GREY16), "PNG"), tiff(GREY16)])
def test_16_bit_grey_is_read_exactly(data):
    image = decode(data)
    np.testing.assert_array_equal(image.pixels, GREY16)
    assert (image.full_range, image.bits) == (65535.0, 16)


def test_jpeg_is_what_pillow_reads():
    data = encoded(Image.fromarray(GREY8), "JPEG", quality=90)
    np.testing.assert_array_equal(decode(data).pixels, np.asarray(Image.open(io.BytesIO(data))))


def test_colour_becomes_rec_601_luminance():
    image = decode(encoded(Image.fromarray(COLOUR), "PNG"))
    np.testing.assert_allclose(image.pixels, rec601(COLOUR), atol=1e-4)  # float32 of values up to 255
    # Pillow's own conversion rounds to whole grey levels.
    assert np.abs(image.pixels - np.asarray(Image.fromarray(COLOUR).convert("L"))).max() <= 0.51


def test_grey_stored_in_colour_equals_the_grey_original():
    data = encoded(Image.fromarray(GREY8).convert("RGB"), "PNG")
    np.testing.assert_array_equal(decode(data).pixels, GREY8)


def test_16_bit_colour_tiff_keeps_its_depth():
    colour = np.random.default_rng(3).integers(0, 65536, (40, 50, 3), dtype=np.uint16)
    image = decode(tiff(colour, photometric="rgb"))
    np.testing.assert_allclose(image.pixels, rec601(colour), rtol=1e-6)
    assert image.bits == 16


def test_16_bit_colour_png_keeps_its_depth():
    colour = np.random.default_rng(3).integers(0, 65536, (40, 50, 3)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in colour)

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 50, 40, 16, 2, 0, 0, 0)
    data = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    image = decode(data)
    np.testing.assert_allclose(image.pixels, rec601(colour), rtol=1e-6)
    assert image.bits == 16 and image.full_range == 65535


def test_palette_is_looked_up():
    image = Image.fromarray(COLOUR).quantize(32)
    np.testing.assert_allclose(
        decode(encoded(image, "PNG")).pixels, rec601(np.asarray(image.convert("RGB"))), atol=1e-4
    )


def test_transparency_is_composed_over_black():
    alpha = np.where(np.arange(50) < 25, 0, 255).astype(np.uint8) * np.ones((40, 1), np.uint8)
    data = encoded(Image.fromarray(np.dstack([GREY8, GREY8, GREY8, alpha])), "PNG")
    np.testing.assert_array_equal(decode(data).pixels, np.where(alpha == 255, GREY8, 0))


def test_one_bit_images():
    bits = Image.fromarray(GREY8 > 127)
    image = decode(encoded(bits, "PNG"))
    np.testing.assert_array_equal(image.pixels, GREY8 > 127)
    assert (image.full_range, image.bits) == (1.0, 1)


def test_cmyk_jpeg_is_reduced_like_its_rgb():
    data = encoded(Image.fromarray(COLOUR).convert("CMYK"), "JPEG", quality=95)
    expected = rec601(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    np.testing.assert_allclose(decode(data).pixels, expected, atol=1e-4)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_tiff_orientation_as_pillow_applies_it(orientation, compression):
    # LZW is beyond tifffile alone and takes the way through Pillow.
    reference = encoded(Image.fromarray(GREY8), "JPEG", exif=_exif(orientation))
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(reference))).size
    data = encoded(Image.fromarray(GREY8), "TIFF", compression=compression, tiffinfo={274: orientation})
    expected = {
        1: GREY8,
        2: np.fliplr(GREY8),
        3: np.rot90(GREY8, 2),
        4: np.flipud(GREY8),
        5: GREY8.T,
        6: np.rot90(GREY8, 3),
        7: np.rot90(GREY8, 2).T,
        8: np.rot90(GREY8),
    }[orientation]
    np.testing.assert_array_equal(decode(data).pixels, expected)
    assert expected.shape[::-1] == upright


def _exif(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("orientation", range(1, 9))
def test_jpeg_orientation_as_pillow_applies_it(orientation):
    data = encoded(Image.fromarray(GREY8), "JPEG", exif=_exif(orientation))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    np.testing.assert_array_equal(decode(data).pixels, expected)


@pytest.mark.parametrize("pixels", [GREY8, GREY16])
@pytest.mark.parametrize("compression", [None, "deflate"])
def test_white_is_zero_tiff_is_inverted(pixels, compression):
    data = tiff(pixels, photometric="miniswhite", compression=compression)
    np.testing.assert_array_equal(decode(data).pixels, np.iinfo(pixels.dtype).max - pixels)


def test_white_is_zero_survives_pillows_way():
    # Asked for white-is-zero, Pillow stores 8-bit pixels inverted and 16-bit ones as they are.
    for pixels, expected in ((GREY8, GREY8), (GREY16, 65535 - GREY16)):
        data = encoded(Image.fromarray(pixels), "TIFF", compression="tiff_lzw", tiffinfo={262: 0})
        assert tifffile.TiffFile(io.BytesIO(data)).pages[0].photometric == 0
        np.testing.assert_array_equal(decode(data).pixels, expected)


def test_planar_and_alpha_tiff():
    colour = np.moveaxis(COLOUR, -1, 0)
    data = tiff(colour, photometric="rgb", planarconfig="separate")
    np.testing.assert_allclose(decode(data).pixels, rec601(COLOUR), atol=1e-4)


def test_float_tiff_takes_its_range_from_the_data():
    pixels = np.linspace(-1, 3, 2000, dtype=np.float32).reshape(40, 50)
    image = decode(tiff(pixels))
    np.testing.assert_array_equal(image.pixels, pixels)
    assert image.full_range == 4.0
    for wide in (np.float64, np.float16):
        np.testing.assert_allclose(decode(tiff(pixels.astype(wide))).pixels, pixels.astype(wide), rtol=1e-6)


def test_signed_tiff_keeps_its_values():
    pixels = (GREY16.astype(np.int32) - 32768).astype(np.int16)
    image = decode(tiff(pixels))
    np.testing.assert_array_equal(image.pixels, pixels)
    assert image.full_range == float(pixels.max()) - float(pixels.min())


def bad_float():
    pixels = np.ones((40, 50), np.float32)
    pixels[3, 4] = np.nan
    return tiff(pixels)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"not an image at all", "not a PNG"),
        (encoded(Image.fromarray(GREY8), "PNG")[:-700], "damaged"),
        (encoded(Image.fromarray(GREY8), "JPEG")[:400], "damaged or cut short|cut short"),
        (tiff(GREY16)[:2000], "cut short"),
        (encoded(Image.fromarray(GREY8), "GIF"), "not a PNG"),
        (encoded(Image.new("L", (20000, 20000)), "PNG"), "over the limit"),
        (encoded(Image.new("1", (20000, 20000)), "TIFF", compression="group4"), "over the limit"),
        (encoded(Image.new("L", (40, 8)), "PNG"), "shorter side"),
        (
            encoded(Image.fromarray(GREY8), "TIFF", save_all=True, append_images=[Image.fromarray(GREY8)]),
            "2 pages",
        ),
        (
            encoded(Image.fromarray(GREY8), "PNG", save_all=True, append_images=[Image.fromarray(~GREY8)]),
            "2 frames",
        ),
        (bad_float(), "1 pixels are NaN"),
        (tiff(np.zeros((40, 50, 6), np.uint8), photometric="minisblack", planarconfig="contig"), "6 samples"),
        (b"\0" * 128 + b"DICM", "without a picture"),
        (encoded(Image.new("L", (50, 40), 7), "PNG"), "blank"),
        (encoded(Image.new("RGB", (50, 40), (7, 8, 9)), "JPEG"), "blank"),
        (tiff(np.full((40, 50), 700, np.uint16)), "blank"),
    ],
)
def test_unusable_files_say_why(data, reason):
    with pytest.raises(DecodeError, match=reason):
        decode(data)


def test_files_that_are_none(tmp_path):
    cases = {
        "folder": "is a folder",
        "empty": "0 bytes",
        "absent": "no such file",
        "pipe": "not a regular file",
    }
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    for name, reason in cases.items():
        with pytest.raises(DecodeError, match=reason):
            read_bytes(tmp_path / name)
    (tmp_path / "large").write_bytes(b"x" * 100)
    with pytest.raises(DecodeError, match="over the limit"):
        read_bytes(tmp_path / "large", Limits(max_bytes=99))


STORED = np.random.default_rng(4).integers(0, 4096, (40, 50), dtype=np.uint16)


DAMAGEABLE = {
    "png": encoded(Image.fromarray(GREY8), "PNG"),
    "jpeg": encoded(Image.fromarray(COLOUR), "JPEG"),
    "tiff": tiff(GREY16, compression="deflate"),
    "lzw": encoded(Image.fromarray(GREY8), "TIFF", compression="tiff_lzw"),
    "bmp": encoded(Image.fromarray(GREY8), "BMP"),
    "dicom": dicom(STORED, 12, WindowCenter=2000, WindowWidth=1500),
}


@pytest.mark.parametrize("form", DAMAGEABLE)
def test_damaged_bytes_give_an_image_or_a_reason(form):
    rng = np.random.default_rng(0)
    good = np.frombuffer(DAMAGEABLE[form], np.uint8)
    for _ in range(60):
        data = good.copy()
        # Mostly the header, where the damage is interesting.
        places = rng.integers(0, len(data) if rng.random() < 0.3 else min(400, len(data)), rng.integers(1, 6))
        data[places] = rng.integers(0, 256, len(places))
        try:
            image = decode(
                data[: rng.integers(1, len(data) + 1)].tobytes() if rng.random() < 0.3 else data.tobytes()
            )
        except DecodeError as error:
            assert str(error)
        else:
            assert image.pixels.ndim == 2 and np.isfinite(image.pixels).all()
            assert min(image.pixels.shape) >= 32 and image.full_range > 0
