"""DICOM: each transformation against pydicom's own or numpy by hand, and every way in which headers and streams lie."""

import io
import struct
import zlib

import imagecodecs
import numpy as np
import psutil
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import (
    JPEG2000,
    UID,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from data_prep.decode import DecodeError, Limits, decode, read_bytes
from tests.data_prep.decode.dicom_files import dicom

STORED = np.random.default_rng(4).integers(0, 4096, (40, 50), dtype=np.uint16)


def pydicoms_own(data: bytes) -> np.ndarray:
    dataset = pydicom.dcmread(io.BytesIO(data))
    return apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)


@pytest.mark.parametrize(
    "elements",
    [
        {},
        {"WindowCenter": 2000, "WindowWidth": 1500},
        {"WindowCenter": [2000, 9], "WindowWidth": [1500, 9], "VOILUTFunction": "SIGMOID"},
        {"RescaleSlope": 2, "RescaleIntercept": -1000},
        {"RescaleSlope": 2, "RescaleIntercept": -1000, "WindowCenter": 3000, "WindowWidth": 2000},
    ],
)
def test_dicom_luts_as_pydicom_applies_them(elements):
    data = dicom(STORED, 12, **elements)
    image = decode(data)
    np.testing.assert_allclose(image.pixels, pydicoms_own(data), rtol=1e-6, atol=1e-3)
    assert image.bits == 12
    assert image.full_range == 4095.0 * elements.get("RescaleSlope", 1)
    # MONOCHROME1 is the same picture, mirrored within its range.
    inverse = decode(dicom(STORED, 12, PhotometricInterpretation="MONOCHROME1", **elements))
    low = elements.get("RescaleIntercept", 0)
    np.testing.assert_allclose(
        inverse.pixels, 2 * low + image.full_range - image.pixels, rtol=1e-6, atol=1e-2
    )


def test_dicom_voi_lut():
    item = pydicom.Dataset()
    item.LUTDescriptor = [4096, 0, 10]
    item.LUTData = (np.arange(4096) // 4).astype("<u2").tobytes()
    data = dicom(STORED, 12, VOILUTSequence=[item])
    image = decode(data)
    np.testing.assert_array_equal(image.pixels, STORED // 4)
    assert image.full_range == 1023.0


def test_dicom_padding_becomes_the_darkest_value():
    padded = np.where(np.arange(50) < 10, 4000, STORED % 3000 + 500).astype(np.uint16)
    image = decode(dicom(padded, 12, PixelPaddingValue=4000))
    assert image.pixels.max() < 3500
    assert (image.pixels[:, :10] == image.pixels[:, 10:].min()).all()


def test_dicom_keeps_what_describes_and_hides_what_identifies():
    data = dicom(
        STORED,
        12,
        PatientName="Doe^Jane",
        PatientID="4711",
        PatientSex="F",
        PatientAge="063Y",
        BodyPartExamined="KNEE",
        StudyDate="20200101",
        InstitutionName="Clinic",
    )
    image = decode(data)
    assert image.patient == "4711"
    assert image.metadata == {"sex": "F", "age": "63", "site": "KNEE"}


@pytest.mark.parametrize(("age", "years"), [("006M", 0.5), ("052W", 0.996), ("010D", 0.0274), ("63", None)])
def test_dicom_ages(age, years):
    found = decode(dicom(STORED, 12, PatientAge=age)).metadata.get("age")
    assert found is None if years is None else float(found) == pytest.approx(years, rel=1e-2)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (dicom(np.stack([STORED, STORED]), 12, NumberOfFrames=2), "DICOM file of 2 frames"),
        (dicom(STORED, 12)[:-100], "cut short: 3900 of 4000"),
        (dicom(STORED, 12, Rows=60000, Columns=60000), "over the limit"),
        (
            dicom(STORED, 12, PixelData=encapsulate([b"\xff\x4f\xff\x51bad"]), syntax=JPEG2000Lossless),
            "damaged",
        ),
    ],
)
def test_unusable_dicom_says_why(data, reason):
    with pytest.raises(DecodeError, match=reason):
        decode(data)


def test_dicom_without_pixels():
    dataset = pydicom.dcmread(io.BytesIO(dicom(STORED, 12)))
    del dataset.PixelData
    stream = io.BytesIO()
    dataset.save_as(stream)
    with pytest.raises(DecodeError, match="without a picture"):
        decode(stream.getvalue())


@pytest.mark.parametrize("name", ["RG3_J2KI", "vlut_04", "JPGLosslessP14SV1_1s_1f_8b"])
def test_real_dicom_as_pydicom_reads_it(shared, name):
    data = read_bytes(shared / "data/dicom" / f"{name}.dcm")
    limits = Limits(modalities=("CR", "OT", "SC", "US"))
    dataset = pydicom.dcmread(io.BytesIO(data))
    shown = pydicoms_own(data)
    image = decode(data, limits)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        shown = 2 ** int(dataset.BitsStored) - 1 - shown
    np.testing.assert_allclose(image.pixels, shown, rtol=1e-6)
    assert 0 < np.ptp(image.pixels) <= image.full_range


# A smooth picture: rules that look at neighbours must see what a radiograph looks like.
def smooth(low, high, dtype, shape=(48, 64)):
    y, x = np.mgrid[: shape[0], : shape[1]] / np.array(shape)[:, None, None]
    wave = 0.5 + 0.5 * np.sin(5 * y + 2) * np.cos(7 * x)
    return np.round(low + (high - low) * (wave - wave.min()) / np.ptp(wave)).astype(dtype)


SMOOTH = smooth(100, 3900, np.uint16)


def shape_of(pixels):
    """What is left of a picture when units are taken away."""
    pixels = np.asarray(pixels, float)
    return (pixels - pixels.min()) / np.ptp(pixels)


def same_picture(data, expected, atol=2e-4):
    image = decode(data)
    np.testing.assert_allclose(shape_of(image.pixels), shape_of(expected), atol=atol)
    return image


def table(entries, first=0, bits=16, count=None, **vr):
    """A lookup table item; `vr` overrides LUTDescriptor or LUTData."""
    item = pydicom.Dataset()
    item.add_new("LUTDescriptor", vr.get("descriptor_vr", "US"), [count or len(entries) % 65536, first, bits])
    data = vr.get("data", np.asarray(entries).astype("<u2").tobytes())
    item.add_new("LUTData", vr.get("data_vr", "OW"), data)
    return item


# --- modality and window


def test_a_negative_slope_inverts_once_whether_or_not_there_is_a_window():
    rescale = {"RescaleSlope": -1, "RescaleIntercept": 4095}
    same_picture(dicom(SMOOTH, 12, **rescale), -SMOOTH.astype(int))
    same_picture(dicom(SMOOTH, 12, **rescale, WindowCenter=2048, WindowWidth=8192), -SMOOTH.astype(int))
    inverse = dicom(
        SMOOTH, 12, PhotometricInterpretation="MONOCHROME1", **rescale, WindowCenter=2048, WindowWidth=8192
    )
    same_picture(inverse, SMOOTH)


@pytest.mark.parametrize(
    "elements",
    [
        {"WindowCenter": 0, "WindowWidth": 0},
        {"WindowCenter": 2000, "WindowWidth": -5},
        {"WindowCenter": 2000, "WindowWidth": 0.5},
        {"WindowCenter": None, "WindowWidth": None},
        {"WindowCenter": 2000},
        {"WindowCenter": 40000, "WindowWidth": 10},  # shows nothing of the data
        {"WindowCenter": -9000, "WindowWidth": 400},
        {"WindowCenter": 2000, "WindowWidth": 1000, "VOILUTFunction": "MAGIC"},
        {"RescaleSlope": None, "RescaleIntercept": None},
        {"RescaleSlope": 1, "RescaleIntercept": None},
        {"RescaleSlope": 0, "RescaleIntercept": 5},
        {"RescaleIntercept": -1024},
    ],
)
def test_what_makes_no_sense_is_left_out(elements):
    same_picture(dicom(SMOOTH, 12, **elements), SMOOTH)


def test_what_was_left_out_is_noted():
    assert (
        "window ignored: it leaves nothing to see"
        in decode(dicom(SMOOTH, 12, WindowCenter=40000, WindowWidth=10)).notes
    )
    assert decode(dicom(SMOOTH, 12, WindowCenter=2000, WindowWidth=3000)).notes == ()


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_windows_by_the_formulas_of_the_standard(function):
    c, w, x = 2000.0, 1500.0, SMOOTH.astype(float)
    expected = {
        "LINEAR": np.clip(((x - (c - 0.5)) / (w - 1) + 0.5), 0, 1),
        "LINEAR_EXACT": np.clip((x - c) / w + 0.5, 0, 1),
        "SIGMOID": 1 / (1 + np.exp(-4 * (x - c) / w)),
    }[function]
    data = dicom(SMOOTH, 12, WindowCenter=c, WindowWidth=w, VOILUTFunction=function)
    np.testing.assert_allclose(decode(data).pixels, 4095 * expected, atol=1e-2)


# --- lookup tables

CURVE = np.round(255 * (np.arange(4096) / 4095) ** 2).astype(int)


@pytest.mark.parametrize(
    "item",
    [
        table(CURVE, bits=8),  # a word for each
        table(CURVE, bits=8, data=CURVE.astype(np.uint8).tobytes()),  # a byte for each
        table(CURVE, bits=8, data_vr="US", data=CURVE.astype(np.uint8).view("<u2").tolist()),  # two in a word
        table(CURVE, bits=8, data_vr="US", data=CURVE.tolist()),
        table(CURVE, bits=16),  # declared wider than filled
        table(CURVE, bits=0),
        table(CURVE * 200, bits=8),  # wider than declared
        table(
            CURVE * 257, bits=16, data_vr="SS", data=(CURVE * 257).astype(np.uint16).view(np.int16).tolist()
        ),
    ],
    ids=["words", "bytes", "packed", "US", "wide", "0 bits", "narrow", "SS"],
)
def test_voi_luts_of_any_packing(item):
    image = same_picture(dicom(SMOOTH, 12, VOILUTSequence=[item]), CURVE[SMOOTH])
    assert image.full_range >= np.ptp(image.pixels)


def test_full_range_follows_the_entries_in_use():
    assert decode(dicom(SMOOTH, 12, VOILUTSequence=[table(np.arange(4096), bits=16)])).full_range == 4095
    assert (
        decode(dicom(SMOOTH, 12, VOILUTSequence=[table(np.arange(4096) * 15, bits=16)])).full_range == 65535
    )


def test_first_mapped_value_under_the_wrong_vr():
    high = smooth(33000, 64000, np.uint16)
    entries = (np.arange(65536 - 32768) // 2).astype(int)
    for vr, first in (("US", 32768), ("SS", -32768)):
        item = table(entries, first=first, descriptor_vr=vr)
        same_picture(dicom(high, 16, VOILUTSequence=[item]), high)
    # Rescaled to negative values, and the first of them written as its 16 bits.
    for vr, first in (("SS", -2048), ("US", 63488)):
        item = table(np.arange(4096), first=first, descriptor_vr=vr)
        data = dicom(SMOOTH, 12, RescaleSlope=1, RescaleIntercept=-2048, VOILUTSequence=[item])
        same_picture(data, SMOOTH)


def test_modality_lut_of_signed_pixels():
    stored = smooth(-32768, 32767, np.int16)
    entries = np.arange(65536) // 3
    for vr, first in (("SS", -32768), ("US", 32768)):
        item = table(entries, first=first, descriptor_vr=vr)
        same_picture(dicom(stored, 16, ModalityLUTSequence=[item]), entries[stored.astype(int) + 32768])


def test_signed_entries():
    values = np.arange(4096) - 2048
    item = table(values, data_vr="SS", data=values.tolist())
    same_picture(dicom(SMOOTH, 12, ModalityLUTSequence=[item]), SMOOTH)
    same_picture(dicom(SMOOTH, 12, ModalityLUTSequence=[table(values & 0xFFFF)]), SMOOTH)


def test_a_table_with_fewer_entries_than_declared_extends_its_last():
    item = table(np.arange(3000), bits=12, count=4096)
    same_picture(dicom(SMOOTH, 12, VOILUTSequence=[item]), np.minimum(SMOOTH, 2999))


def test_tables_that_are_empty_or_show_nothing_are_left_out():
    empty = pydicom.Dataset()
    for item in (empty, table(np.full(4096, 7)), table([], count=4096)):
        image = same_picture(dicom(SMOOTH, 12, VOILUTSequence=[item]), SMOOTH)
        assert image.notes
        same_picture(dicom(SMOOTH, 12, ModalityLUTSequence=[item]), SMOOTH)


# --- stored bits


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [("uint8", 8), ("uint16", 16), ("int16", 16), ("uint32", 20), ("uint32", 32), ("int32", 31)],
)
def test_the_whole_range_of_every_depth(dtype, bits, monkeypatch):
    monkeypatch.setattr("data_prep.bands._PIXELS", 500)  # several bands
    low = -(2 ** (bits - 1)) if dtype.startswith("i") else 0
    stored = np.linspace(low, low + 2.0**bits - 1, 40 * 50).astype(dtype).reshape(40, 50)
    image = decode(dicom(stored, bits, RescaleSlope=2, RescaleIntercept=-3))
    np.testing.assert_array_equal(image.pixels, (2 * stored.astype(np.float64) - 3).astype(np.float32))
    assert image.full_range == 2 * (2.0**bits - 1)


def test_what_a_window_shows_is_counted_in_pixels_not_in_values():
    stored = np.full((64, 64), 4000, np.uint16)
    stored[0, :12] = np.arange(1000, 1012)  # all that the window shows: most of the values, 3 of 1000 pixels
    stored[32:, ::2] = 2000
    image = decode(dicom(stored, 12, WindowCenter=1000, WindowWidth=500))
    assert image.notes == ()
    stored[0, 5:12] = 4000
    image = decode(dicom(stored, 12, WindowCenter=1000, WindowWidth=500))
    assert image.notes == ("window ignored: it leaves nothing to see",)
    np.testing.assert_array_equal(image.pixels, stored)


def test_high_bit_above_the_stored_bits():
    shifted = (SMOOTH << 4).astype(np.uint16)
    same_picture(dicom(shifted, 12, HighBit=15), SMOOTH)
    same_picture(dicom(shifted + 9, 12, HighBit=15), SMOOTH)  # something below them
    same_picture(dicom(SMOOTH, 12, HighBit=5), SMOOTH)  # nonsense


@pytest.mark.parametrize("extended", [True, False])
def test_signed_pixels_with_and_without_sign_extension(extended):
    stored = smooth(-2000, 2000, np.int16)
    raw = stored if extended else (stored & 0xFFF).astype(np.int16)
    same_picture(dicom(raw, 12, PixelRepresentation=1), stored)


def test_overlays_in_the_bits_above_are_ignored():
    overlay = np.zeros(SMOOTH.shape, np.uint16)
    overlay[10:20, 10:40] = 1 << 14
    same_picture(dicom(SMOOTH | overlay, 12), SMOOTH)


def test_more_bits_than_declared_are_refused_not_wrapped():
    with pytest.raises(DecodeError, match="beyond the 12 bits"):
        decode(dicom(smooth(0, 16000, np.uint16), 12))


def test_padding_under_the_wrong_vr():
    stored = smooth(-1000, 3000, np.int16)
    stored[:, :9] = -2000
    for value, vr in ((-2000, "SS"), (63536, "US")):
        data = dicom(stored, 16)
        dataset = pydicom.dcmread(io.BytesIO(data))
        dataset.add_new("PixelPaddingValue", vr, value)
        stream = io.BytesIO()
        dataset.save_as(stream)
        expected = stored.astype(int)
        expected[:, :9] = stored[:, 9:].min()
        same_picture(stream.getvalue(), expected)


def test_a_range_of_padding():
    stored = SMOOTH.copy()
    stored[:, :9], stored[:9] = 4095, 4090
    expected = np.where(stored >= 4090, stored[9:, 9:].min(), stored)
    same_picture(dicom(stored, 12, PixelPaddingValue=4095, PixelPaddingRangeLimit=4090), expected)


# --- compressed frames


def compressed(stream, syntax, bits=12, pixels=SMOOTH, **elements):
    return dicom(pixels, bits, PixelData=encapsulate([stream]), syntax=syntax, **elements)


SMOOTH8 = smooth(9, 250, np.uint8)
J2K = {"codecformat": "J2K", "reversible": True}
# Name -> transfer syntax, bits, codestream, the picture in it.
STREAMS = {
    "JPEG": (JPEGBaseline8Bit, 8, imagecodecs.jpeg8_encode(SMOOTH8, level=95), SMOOTH8),
    "JPEG 12": (JPEGExtended12Bit, 12, imagecodecs.jpeg8_encode(SMOOTH, level=98, bitspersample=12), SMOOTH),
    "JPEG lossless": (JPEGLosslessSV1, 12, imagecodecs.ljpeg_encode(SMOOTH, bitspersample=12), SMOOTH),
    "JPEG-LS": (JPEGLSLossless, 12, imagecodecs.jpegls_encode(SMOOTH), SMOOTH),
    "JPEG 2000": (JPEG2000Lossless, 12, imagecodecs.jpeg2k_encode(SMOOTH, **J2K, bitspersample=12), SMOOTH),
}


@pytest.mark.parametrize("name", STREAMS)
def test_whole_frames_are_read_and_cut_ones_refused(name):
    syntax, bits, stream, pixels = STREAMS[name]
    same_picture(compressed(stream, syntax, bits, pixels), pixels, atol=0.02)
    for share in (0.5, 0.9):
        cut = stream[: int(share * len(stream))]
        for end in (b"", b"\xff\xd9"):
            with pytest.raises(DecodeError, match=r"cut short|damaged"):
                decode(compressed(cut + end, syntax, bits, pixels))


def test_run_lengths_whole_and_cut():
    dataset = pydicom.dcmread(io.BytesIO(dicom(SMOOTH, 12)))
    dataset.compress(RLELossless)
    stream = io.BytesIO()
    dataset.save_as(stream)
    same_picture(stream.getvalue(), SMOOTH)
    frame = pydicom.encaps.get_frame(dataset.PixelData, 0, number_of_frames=1)
    with pytest.raises(DecodeError, match="cut short"):
        decode(compressed(frame[: len(frame) // 2 * 2 // 2], RLELossless))


def test_lossy_overshoot_is_clipped_not_wrapped():
    bright = smooth(0, 1023, np.uint16)
    over = np.clip(bright.astype(int) + 12 * (bright > 1015), 0, 4095).astype(np.uint16)
    stream = imagecodecs.jpeg8_encode(over, level=100, bitspersample=12)
    image = same_picture(compressed(stream, JPEGExtended12Bit, 10, over), bright, atol=0.03)
    assert image.pixels.max() <= 1023


@pytest.mark.parametrize("codec", ["JPEG-LS", "JPEG 2000"])
def test_signed_pixels_in_unsigned_codestreams(codec):
    stored = smooth(-2000, 2000, np.int16)
    for words in ((stored & 0xFFF).astype(np.uint16), stored.view(np.uint16)):
        if codec == "JPEG-LS":
            data, syntax = imagecodecs.jpegls_encode(words), JPEGLSLossless
        else:
            data = imagecodecs.jpeg2k_encode(words, codecformat="J2K", reversible=True, bitspersample=16)
            syntax = JPEG2000Lossless
        same_picture(compressed(data, syntax, 12, stored, PixelRepresentation=1), stored)


def test_overlay_bits_in_a_lossless_codestream():
    overlay = np.zeros(SMOOTH.shape, np.uint16)
    overlay[10:20, 10:40] = 1 << 15
    stream = imagecodecs.jpeg2k_encode(SMOOTH | overlay, codecformat="J2K", reversible=True)
    same_picture(compressed(stream, JPEG2000Lossless), SMOOTH)


def test_eight_bits_in_sixteen_allocated():
    pixels = smooth(9, 250, np.uint8)
    stream = imagecodecs.jpeg8_encode(pixels, level=95)
    data = compressed(stream, JPEGBaseline8Bit, 8, pixels.astype(np.uint16), BitsAllocated=16)
    same_picture(data, pixels, atol=0.02)


def test_a_codestream_of_another_size_is_refused_before_it_is_decoded():
    huge = bytearray(STREAMS["JPEG 2000"][2])
    huge[8:16] = struct.pack(">II", 20000, 20000)
    before = psutil.Process().memory_info().rss
    with pytest.raises(DecodeError, match="header says 64x48 pixels, its compressed picture 20000x20000"):
        decode(compressed(bytes(huge), JPEG2000Lossless))
    with pytest.raises(DecodeError, match="over the limit"):
        decode(compressed(bytes(huge), JPEG2000Lossless, Rows=20000, Columns=20000))
    assert psutil.Process().memory_info().rss - before < 50 * 2**20


def test_lossy_jpeg_2000_is_read():
    stream = imagecodecs.jpeg2k_encode(
        SMOOTH, level=60, codecformat="J2K", reversible=False, bitspersample=12
    )
    same_picture(compressed(stream, JPEG2000), SMOOTH, atol=0.02)


# --- headers


def test_one_sample_is_grey_and_three_are_colour_whatever_is_stated():
    same_picture(dicom(SMOOTH, 12, PhotometricInterpretation="RGB"), SMOOTH)
    same_picture(dicom(SMOOTH, 12, PhotometricInterpretation=""), SMOOTH)
    rgb = np.stack([smooth(0, 200, np.uint8)] * 3, -1)
    for planar, pixels in ((0, rgb), (1, np.moveaxis(rgb, -1, 0))):
        data = dicom(
            rgb[..., 0], 8, PixelData=pixels.tobytes(), SamplesPerPixel=3, PlanarConfiguration=planar,
            PhotometricInterpretation="MONOCHROME2",
        )  # fmt: skip
        same_picture(data, rgb[..., 0])


def test_luma_of_ybr_is_taken_as_it_is():
    grey = smooth(0, 200, np.uint8)
    ybr = np.stack([grey, np.full_like(grey, 90), np.full_like(grey, 7)], -1)
    elements = {"SamplesPerPixel": 3, "PlanarConfiguration": 0, "PhotometricInterpretation": "YBR_FULL"}
    same_picture(dicom(grey, 8, PixelData=ybr.tobytes(), **elements), grey)


@pytest.mark.parametrize("preamble", ["none", "no meta", "implicit", "only DICM"])
def test_files_without_preamble(preamble):
    data = dicom(SMOOTH, 12)
    if preamble == "none":
        data = data[132:]
    elif preamble == "no meta":
        (length,) = struct.unpack_from("<I", data, 140)
        data = data[144 + length :]
    elif preamble == "implicit":
        data = dicom(SMOOTH, 12, syntax=ImplicitVRLittleEndian)
        (length,) = struct.unpack_from("<I", data, 140)
        data = data[144 + length :]
    else:
        data = data[128:]
    same_picture(data, SMOOTH)


def test_big_endian():
    dataset = pydicom.dcmread(io.BytesIO(dicom(SMOOTH, 12)))
    dataset.PixelData = SMOOTH.astype(">u2").tobytes()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, dataset, little_endian=False, implicit_vr=False, enforce_file_format=True)
    same_picture(stream.getvalue(), SMOOTH)


@pytest.mark.parametrize("spacing", [[1, 2], [0.4, 0.2]])
def test_pixels_that_are_not_square_are_noted(spacing):
    image = same_picture(dicom(SMOOTH, 12, PixelSpacing=spacing), SMOOTH)
    assert image.pixel_aspect == spacing[0] / spacing[1]
    assert "times as high as wide" in image.notes[0]
    assert decode(dicom(SMOOTH, 12, PixelSpacing=[0.2, 0.2])).pixel_aspect == 1.0
    assert decode(dicom(SMOOTH, 12, PixelSpacing=[0, 0.2])).pixel_aspect == 1.0
    assert decode(dicom(SMOOTH, 12, PixelAspectRatio=[3, 2])).pixel_aspect == 1.5


@pytest.mark.parametrize("modality", ["CT", "MR", "US", "OT", "PT", "SR"])
def test_other_modalities_are_refused_unless_allowed(modality):
    data = dicom(SMOOTH, 12, Modality=modality)
    with pytest.raises(DecodeError, match=r"no plain radiograph but .*limits\.modalities"):
        decode(data)
    assert decode(data, Limits(modalities=(modality,))).pixels.shape == SMOOTH.shape


@pytest.mark.parametrize(
    ("uid", "name"),
    [
        ("1.2.840.10008.5.1.4.1.1.2", "CT"),
        ("1.2.840.10008.5.1.4.1.1.7", "SC"),
        ("1.2.840.10008.5.1.4.1.1.4", "MR"),
    ],
)
def test_the_kind_of_object_counts_too(uid, name):
    for modality in ({}, {"Modality": "CR"}):
        with pytest.raises(DecodeError, match="no plain radiograph"):
            decode(dicom(SMOOTH, 12, SOPClassUID=UID(uid), **modality))
    assert decode(dicom(SMOOTH, 12, SOPClassUID=UID(uid)), Limits(modalities=(name,))).pixels.size


def test_blank_pictures_are_refused():
    with pytest.raises(DecodeError, match="blank"):
        decode(dicom(np.full((40, 50), 7, np.uint16), 12))


# --- bombs


def deflated(payload: bytes) -> bytes:
    """A file whose data set is `payload`, deflated."""
    head = dicom(SMOOTH, 12, syntax=UID("1.2.840.10008.1.2.1"))
    (length,) = struct.unpack_from("<I", head, 140)
    meta = head[: 144 + length].replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")
    grown = len(meta) - 144 - length
    meta = meta[:140] + struct.pack("<I", length + grown) + meta[144:]
    at = meta.index(b"\x02\0\x10\0UI") + 6
    meta = meta[:at] + struct.pack("<H", 22) + meta[at + 2 :]
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return meta + packer.compress(payload) + packer.flush()


def test_deflated_files_are_read_and_bombs_are_not():
    data = dicom(SMOOTH, 12)
    (length,) = struct.unpack_from("<I", data, 140)
    body = data[144 + length :]
    same_picture(deflated(body), SMOOTH)
    with pytest.raises(DecodeError, match="cut short"):
        decode(deflated(body)[:-40])
    before = psutil.Process().memory_info().rss
    with pytest.raises(DecodeError, match="unpacks to more than the limit"):
        decode(deflated(bytes(200 * 2**20)), Limits(max_bytes=20 * 2**20))
    assert psutil.Process().memory_info().rss - before < 100 * 2**20


def test_nested_nonsense_is_a_reason():
    nested = b"\x40\0\x30\xa7SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff" * 5000
    data = dicom(SMOOTH, 12)
    with pytest.raises(DecodeError, match=r"damaged|without a picture"):
        decode(data[:400] + nested)


def test_no_reason_is_an_exceptions_text():
    rng = np.random.default_rng(1)
    good = [
        np.frombuffer(compressed(s, syntax, bits, p), np.uint8) for syntax, bits, s, p in STREAMS.values()
    ]
    for k in range(150):
        data = good[k % len(good)].copy()
        places = rng.integers(300, len(data), 4)
        data[places] = rng.integers(0, 256, 4)
        try:
            decode(data.tobytes())
        except DecodeError as error:
            assert not any(word in str(error) for word in ("Error", "Exception", "None", "dtype")), error
