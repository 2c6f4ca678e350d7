"""TIFF: the array that was written comes back, whatever the encoding; what has no one meaning is refused."""

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from data_prep.decode import DecodeError, decode

Y, X = np.mgrid[:48, :64]
WAVE = 0.5 + 0.5 * np.sin(Y / 9) * np.cos(X / 11)


def grey(dtype, low=None, high=None):
    """A smooth picture over the whole range of a type, or from `low` to `high`."""
    kind = np.dtype(dtype).kind
    low = (np.iinfo(dtype).min if kind in "iu" else -2.0) if low is None else low
    high = (np.iinfo(dtype).max if kind in "iu" else 5.0) if high is None else high
    scaled = np.float64(low) + (np.float64(high) - np.float64(low)) * WAVE
    if kind == "f":
        return scaled.astype(dtype)
    # The largest 64-bit integers are no float64: 2**64 would come out as 0.
    top = float(high) if high < 2**53 else np.nextafter(float(high), 0)
    return np.clip(np.round(scaled), low, top).astype(dtype)


def tiff(pixels, **options):
    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels, **{"photometric": "minisblack", **options})
    return stream.getvalue()


def shape_of(pixels):
    pixels = np.asarray(pixels, np.longdouble)
    return (pixels - pixels.min()) / np.ptp(pixels)


def same_picture(data, expected, atol=1e-6):
    image = decode(data)
    assert image.pixels.dtype == np.float32 and np.isfinite(image.pixels).all()
    np.testing.assert_allclose(shape_of(image.pixels), shape_of(expected), atol=atol)
    return image


DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "float16", "float32", "float64")


@pytest.mark.parametrize("compression", [None, "lzw", "deflate", "packbits", "zstd", "lzma"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_sample_format_under_every_compression(dtype, compression):
    pixels = grey(dtype)
    same_picture(tiff(pixels, compression=compression), pixels)


@pytest.mark.parametrize("compression", ["lzw", "deflate", "zstd"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "float32"])
def test_predictors_tiles_and_bigtiff(dtype, compression):
    pixels = grey(dtype)
    same_picture(tiff(pixels, compression=compression, predictor=True), pixels)
    same_picture(tiff(pixels, compression=compression, predictor=True, tile=(16, 32), bigtiff=True), pixels)
    same_picture(tiff(pixels, compression=compression, byteorder=">", rowsperstrip=7), pixels)


@pytest.mark.parametrize("bits", [1, 2, 4, 10, 12, 14])
def test_packed_bits(bits):
    pixels = grey("uint16", 0, 2**bits - 1)
    image = same_picture(packed(pixels, bits), pixels)
    assert image.full_range == 2**bits - 1


def packed(pixels, bits):
    """A little-endian TIFF of one strip whose rows are packed from the highest bit on, as TIFF 6.0 has it."""
    rows = [
        np.packbits(((row[:, None] >> np.arange(bits - 1, -1, -1)) & 1).astype(np.uint8).ravel()).tobytes()
        for row in pixels.astype(np.int64)
    ]
    return raw_tiff({256: 64, 257: 48, 258: bits, 259: 1, 262: 1, 277: 1, 278: 48}, b"".join(rows))


def raw_tiff(tags, strip, count=None):
    """A TIFF of one strip with the given numeric tags."""
    tags = {**tags, 273: 8, 279: len(strip) if count is None else count}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    padded = strip + b"\0" * (len(strip) % 2)
    return (
        b"II*\0"
        + struct.pack("<I", 8 + len(padded))
        + padded
        + struct.pack("<H", len(tags))
        + entries
        + bytes(4)
    )


@pytest.mark.parametrize("compression", [None, "lzw", "deflate"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_white_is_zero(dtype, compression):
    pixels = grey(dtype)
    same_picture(tiff(pixels, photometric="miniswhite", compression=compression), -pixels.astype(int))


@pytest.mark.parametrize("compression", [None, "lzw", "deflate"])
def test_only_an_unassociated_alpha_is_composed(compression):
    pixels, alpha = grey("uint8"), np.where(X < 32, 255, 60).astype(np.uint8)
    both = np.dstack([pixels, alpha])

    def written(kind):
        return tiff(both, extrasamples=[kind], planarconfig="contig", compression=compression)

    same_picture(written("unspecified"), pixels)
    same_picture(written("assocalpha"), pixels)
    same_picture(written("unassalpha"), pixels * (alpha / 255.0))
    nothing = np.dstack([pixels, np.zeros_like(pixels)])
    image = same_picture(tiff(nothing, extrasamples=["unassalpha"], planarconfig="contig"), pixels)
    assert "alpha is zero everywhere" in image.notes[0]


def test_alpha_of_colour_and_of_16_bits():
    pixels = grey("uint16")
    alpha = np.where(X < 32, 65535, 20000).astype(np.uint16)
    rgba = np.dstack([pixels, pixels, pixels, alpha])
    same_picture(tiff(rgba, photometric="rgb", extrasamples=["unassalpha"]), pixels * (alpha / 65535.0))
    same_picture(tiff(rgba, photometric="rgb", extrasamples=["assocalpha"]), pixels)
    planar = np.moveaxis(rgba, -1, 0)
    same_picture(
        tiff(planar, photometric="rgb", planarconfig="separate", extrasamples=["assocalpha"]), pixels
    )


def test_palettes():
    ramp = np.linspace(0, 255, 256).astype(np.uint16)[::-1]
    for scale in (257, 256, 1):  # as the standard has it, and as writers do
        colormap = np.stack([ramp * scale] * 3)
        same_picture(
            tiff(grey("uint8"), photometric="palette", colormap=colormap), -grey("uint8").astype(int), 5e-3
        )


def test_cmyk_is_what_pillow_makes_of_it():
    cmyk = np.random.default_rng(0).integers(0, 256, (48, 64, 4), dtype=np.uint8)
    rgb = np.asarray(Image.fromarray(cmyk, "CMYK").convert("RGB")).astype(float)
    expected = rgb @ [0.299, 0.587, 0.114]
    image = decode(tiff(cmyk, photometric="separated"))
    np.testing.assert_allclose(image.pixels, expected, atol=1.0)  # Pillow rounds to whole levels


def test_a_reduced_copy_beside_the_picture_is_passed_over():
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        writer.write(grey("uint8"), photometric="minisblack")
        writer.write(grey("uint8")[::2, ::2], photometric="minisblack", subfiletype=1)
    same_picture(stream.getvalue(), grey("uint8"))


@pytest.mark.parametrize("stack", ["pages", "imagej", "volume"])
def test_stacks_are_refused(stack):
    volume = np.stack([grey("uint8")] * 3)
    options = {
        "pages": {},
        "imagej": {"imagej": True, "contiguous": True},
        "volume": {"volumetric": True, "tile": (16, 16, 16)},
    }
    data = tiff(volume, **options[stack])
    with pytest.raises(DecodeError, match=r"one radiograph a file is needed"):
        decode(data)


@pytest.mark.parametrize("photometric", ["cielab", "cfa", "logluv"])
def test_other_colours_are_refused_by_name(photometric):
    code = {"cielab": 8, "cfa": 32803, "logluv": 32845}[photometric]
    tags = {256: 64, 257: 48, 258: 8, 259: 1, 262: code, 277: 1, 278: 48}
    with pytest.raises(DecodeError, match="which no radiograph has"):
        decode(raw_tiff(tags, grey("uint8").tobytes()))


def test_floats_beyond_single_precision():
    ends = np.finfo(np.float64)
    for low, high in ((-1e300, 1e300), (0, 1e39), (1e-300, 9e-300), (-3e38, 3e38), (0, float(ends.max))):
        same_picture(tiff(WAVE * high + (1 - WAVE) * low), WAVE - 0 if high > low else -WAVE)
    for offset, dtype in ((1e9, np.float64), (2**31, np.uint32), (-(2**30), np.int32), (2**62, np.uint64)):
        pixels = (np.asarray(offset, dtype) + np.round(WAVE * 1000).astype(dtype)).astype(dtype)
        same_picture(tiff(pixels), np.round(WAVE * 1000))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_pixels_that_are_no_numbers_are_refused(bad, dtype):
    pixels = grey("float32").astype(dtype)
    pixels[3, 4] = bad
    with pytest.raises(DecodeError, match="1 pixels are NaN or infinite"):
        decode(tiff(pixels))


@pytest.mark.parametrize("compression", [None, "lzw", "deflate", "packbits"])
def test_a_file_cut_anywhere_is_refused(compression):
    data = tiff(grey("uint16"), compression=compression)
    for share in (0.1, 0.5, 0.95):
        with pytest.raises(DecodeError, match=r"cut short|damaged"):
            decode(data[: int(share * len(data))])


BASE = {256: 64, 257: 48, 258: 8, 262: 1, 277: 1}


@pytest.mark.parametrize(
    ("tags", "strip"),
    [
        ({**BASE, 259: 8, 278: 48}, zlib.compress(bytes(2**28), 9)),
        ({**BASE, 259: 8, 278: 2**31}, zlib.compress(bytes(2**28), 9)),
        ({**BASE, 259: 1, 278: 48}, None),  # claims 3 GB of data
        ({256: 9000, 257: 9000, 258: 64, 259: 8, 262: 1, 277: 4, 278: 9000}, zlib.compress(bytes(2**20), 9)),
        ({**BASE, 259: 8, 322: 2**15, 323: 2**15}, zlib.compress(bytes(2**28), 9)),
    ],
    ids=["strip inflates", "rows a strip", "byte count", "samples", "tile"],
)
def test_bombs_cost_no_memory(tmp_path, tags, strip):
    data = raw_tiff(tags, strip or b"\0" * 3072, count=None if strip else 3 * 10**9)
    (tmp_path / "bomb.tif").write_bytes(data)
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from data_prep.decode import DecodeError, decode\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    decode(Path(sys.argv[1]).read_bytes())\n"
        "except DecodeError as error:\n    print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "bomb.tif"], capture_output=True, text=True, check=True
    )
    assert int(run.stdout.splitlines()[-1]) < 200 * 1024, run.stdout  # KiB


def test_an_endless_chain_of_pages_is_refused():
    data = bytearray(tiff(grey("uint8"), metadata=None))
    (first,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, first)
    struct.pack_into("<I", data, first + 2 + 12 * count, first)
    try:
        same_picture(bytes(data), grey("uint8"))
    except DecodeError as error:
        assert "page" in str(error) or "damaged" in str(error)
