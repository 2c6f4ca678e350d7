"""A DICOM file to one radiograph: read, checked, its frame decoded, presented (PS3.3 C.7.6.3 and C.11)."""

import datetime
import io
import logging
import struct
import zlib

import numpy as np
import pydicom
from pydicom.encaps import get_frame
from pydicom.pixels import apply_color_lut, get_decoder
from pydicom.sr.codedict import codes
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    RLELossless,
)
from pydicom.valuerep import VR

from data_prep import dates
from data_prep.decode.codestream import Codestream, decode_codestream, read_codestream
from data_prep.decode.presentation import (
    Presentation,
    distinct,
    invert,
    modality,
    number,
    padding_mask,
    picture,
    voi,
)
from data_prep.decode.radiograph import DecodeError, Limits, Radiograph, check_size, luminance
from data_prep.decode.stored import stored_range, stored_values
from osteojax.errors import UserError

# Their warnings name no file; what matters is in the reasons and notes here.
for _name in ("pydicom", "pylibjpeg", "libjpeg", "openjpeg"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)

# Header fields that describe the acquisition; none of them is in table E.1-1 of PS3.15, which lists what identifies
# people. Sex and age, which are, are taken only as the standard writes them (docs/privacy.md).
_METADATA = {
    "BodyPartExamined": "site",
    "ViewPosition": "view",
    "Modality": "modality",
    "Manufacturer": "manufacturer",
    "ManufacturerModelName": "manufacturer_model",
}
_SEXES = ("M", "F", "O")
_YEARS = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}
# What may be told of a modality: a header can hold any text there.
_MODALITIES = {getattr(codes.cid33, name).value for name in codes.cid33.dir()}
# Kinds of objects that are no plain radiograph whatever their Modality says (PS3.4, B.5), by the start of their UID.
_OBJECTS = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.3.1": "US",
    "1.2.840.10008.5.1.4.1.1.6": "US",
    "1.2.840.10008.5.1.4.1.1.7": "SC",
    "1.2.840.10008.5.1.4.1.1.20": "NM",
    "1.2.840.10008.5.1.4.1.1.128": "PT",
    "1.2.840.10008.5.1.4.1.1.77": "photograph",
}
# What a file without preamble begins with: file meta, identifying, patient, acquisition, relationship, image.
_FIRST_GROUPS = (0x02, 0x08, 0x10, 0x18, 0x20, 0x28)
_LOSSY_SYNTAXES = {
    *("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.81"),
    *("1.2.840.10008.1.2.4.53", "1.2.840.10008.1.2.4.55"),
}


def looks_like_dicom(data: bytes) -> bool:
    """Whether these are the bytes of a DICOM file, with its preamble or without."""
    if data[128:132] == b"DICM" or data[:4] == b"DICM":
        return True
    if len(data) < 16 or data[1] or data[0] not in _FIRST_GROUPS:
        return False
    (length,) = struct.unpack_from("<I", data, 4)
    return data[4:6].decode("latin-1") in set(VR) or (length % 2 == 0 and length < min(len(data), 2**10))


def decode_dicom(data: bytes, limits: Limits) -> Radiograph:
    """Decodes a DICOM file; see `data_prep.decode.decode`.

    Raises:
        DecodeError: it holds no single radiograph of an allowed modality within the limits, or not all of it.
    """
    dataset = read_dataset(data, limits)
    notes = _check_object(dataset, limits)
    return _present(dataset, notes, limits)


def read_dataset(data: bytes, limits: Limits) -> pydicom.Dataset:
    """All elements of a DICOM file, with its preamble or without; the picture is left as it is stored.

    Raises:
        DecodeError: the file is damaged, cut short, or unpacks to more than the limit.
    """
    if data[:4] == b"DICM":
        data = bytes(128) + data
    try:
        if _transfer_syntax(data) == DeflatedExplicitVRLittleEndian:
            data = _inflated(data, limits.max_bytes)
        dataset = pydicom.dcmread(io.BytesIO(data), force=True)
        list(dataset)  # elements are parsed when they are looked at: now
    except DecodeError:
        raise
    except MemoryError:
        raise
    except Exception:  # whatever a damaged file makes pydicom raise
        raise DecodeError("the file is damaged: its DICOM header does not read") from None
    return dataset


def _meta_end(data: bytes) -> int:
    """Where the file meta information ends (PS3.10, 7.1); 0 where there is none."""
    if data[128:132] != b"DICM" or data[132:140] != b"\x02\0\0\0UL\x04\0":
        return 0
    (length,) = struct.unpack_from("<I", data, 140)
    return 144 + length


def _transfer_syntax(data: bytes) -> str:
    meta = data[132 : _meta_end(data)]
    at = meta.find(b"\x02\0\x10\0UI")
    if at < 0:
        return ""
    (length,) = struct.unpack_from("<H", meta, at + 6)
    return meta[at + 8 : at + 8 + length].rstrip(b"\0 ").decode("ascii", "replace")


def _inflated(data: bytes, max_bytes: int) -> bytes:
    """The same file without its compression; counted before it is kept, so that a bomb costs no memory."""
    end = _meta_end(data)
    inflater, size, rest = zlib.decompressobj(-zlib.MAX_WBITS), 0, data[end:]
    while rest and not inflater.eof:
        size += len(inflater.decompress(rest, 2**20))
        rest = inflater.unconsumed_tail
        if size > max_bytes:
            raise DecodeError(f"its compressed header unpacks to more than the limit of {max_bytes} bytes")
    if not inflater.eof:
        raise DecodeError("the file is cut short: its compressed data have no end")
    meta = data[:end].replace(
        DeflatedExplicitVRLittleEndian.encode(), ExplicitVRLittleEndian.encode().ljust(22, b"\0")
    )
    return meta + zlib.decompress(data[end:], -zlib.MAX_WBITS)


def _check_object(dataset: pydicom.Dataset, limits: Limits) -> tuple[str, ...]:
    """Refuses what is no single radiograph; returns notes."""
    stated = str(dataset.get("Modality") or "").strip().upper()
    kind = str(dataset.get("SOPClassUID") or "")
    implied = next(
        (name for uid, name in _OBJECTS.items() if kind == uid or kind.startswith(uid + ".")), None
    )
    if "PixelData" not in dataset:
        if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
            raise DecodeError("a DICOM file of floating-point pixels, which no radiograph has")
        what = f" ({_kind_name(stated, limits)})" if stated else ""
        raise DecodeError(f"a DICOM file without a picture{what}")
    for found in filter(None, (stated, implied)):
        if found not in limits.modalities:
            raise DecodeError(
                f"no plain radiograph but {_kind_name(found, limits)}; allowed are {', '.join(limits.modalities)} "
                "(limits.modalities)"
            )
    frames = number(dataset, "NumberOfFrames")
    if frames is not None and frames > 1:
        raise DecodeError(f"a DICOM file of {frames:.0f} frames; one radiograph a file is needed")
    return () if stated or kind else ("the DICOM file does not say its modality",)


def _kind_name(modality: str, limits: Limits) -> str:
    names = {"SC": "a secondary capture (SC)", "photograph": "a photograph", "US": "an ultrasound image (US)"}
    if modality not in {*_MODALITIES, *_OBJECTS.values(), *limits.modalities}:
        return "something of a modality that DICOM does not know"
    return names.get(modality, f"modality {modality}")


def _whole_number(dataset: pydicom.Dataset, keyword: str, default: int | None = None) -> int:
    value = number(dataset, keyword)
    if value is None or value != int(value) or value < 0:
        if default is not None and value is None:
            return default
        raise DecodeError(f"the file is damaged: its DICOM header has no usable {keyword}")
    return int(value)


def _present(dataset: pydicom.Dataset, notes: tuple[str, ...], limits: Limits) -> Radiograph:
    check_size(_whole_number(dataset, "Rows"), _whole_number(dataset, "Columns"), limits)
    syntax = UID(str(dataset.file_meta.get("TransferSyntaxUID") or ""))
    big_endian = syntax == ExplicitVRBigEndian
    raw, stream = _frame(dataset, syntax)
    if syntax and syntax.type != "Transfer Syntax":
        notes = (*notes, "its transfer syntax is not known; its picture was read as what it looks like")
    photometric = _photometric(dataset, raw)
    bits = _whole_number(dataset, "BitsStored", 8 * raw.itemsize)
    allocated = _whole_number(dataset, "BitsAllocated", 8 * raw.itemsize)
    if not 1 <= bits <= 32:
        raise DecodeError(f"the file is damaged: its DICOM header has a BitsStored of {bits}")
    if stream is not None and raw.ndim == 2 and stream.precision < bits:
        allocated = max(allocated, bits)
    if photometric == "PALETTE COLOR":
        coloured = apply_color_lut(raw, dataset)
        return _colour(coloured[..., :3], float(2 ** (8 * coloured.itemsize) - 1), 8, dataset, notes)
    if raw.ndim == 3:
        grey = raw[..., 0] if photometric.startswith("YBR_FULL") or photometric == "YBR_PARTIAL_420" else raw
        return _colour(grey, float(2 ** min(bits, 8 * raw.itemsize) - 1), bits, dataset, notes)

    signed = _whole_number(dataset, "PixelRepresentation", 0) == 1
    high_bit = _whole_number(dataset, "HighBit", bits - 1)
    if high_bit < bits - 1 or high_bit >= max(allocated, bits) or stream is not None:
        # A codestream holds samples, not words: nothing lies below them.
        high_bit = bits - 1
    lossy = stream is not None and (syntax in _LOSSY_SYNTAXES or stream.lossless is False)
    stored = stored_values(
        raw, bits=bits, high_bit=high_bit, signed=signed, lossy=lossy, overlay_bits=_overlay_bits(dataset)
    )
    values, pixels = distinct(stored)
    if len(values) == 1:
        raise DecodeError("the picture is blank: all its pixels have the same value")
    padding = padding_mask(values, dataset, max(allocated, 16), signed=signed)
    if padding.all():
        padding[:] = False
    low, high = stored_range(bits, signed)
    shown = modality(Presentation(values, pixels, low, high, notes), dataset, big_endian=big_endian)
    shown = voi(shown, dataset, ~padding, big_endian=big_endian)
    if photometric == "MONOCHROME1":
        shown = invert(shown)
    levels = np.asarray(shown.values, np.float64)
    if padding.any():
        # Padding is no measurement: as the darkest real value it neither stretches the range nor stands out.
        levels = np.where(padding, levels[~padding].min(), levels)
    image = picture(stored, values, levels.astype(np.float32))
    return _radiograph(image, shown.high - shown.low, bits, dataset, shown.notes)


def _colour(
    pixels: np.ndarray, full_range: float, bits: int, dataset: pydicom.Dataset, notes: tuple[str, ...]
) -> Radiograph:
    return _radiograph(luminance(pixels, full_range), full_range, bits, dataset, notes)


def _radiograph(
    pixels: np.ndarray, full_range: float, bits: int, dataset: pydicom.Dataset, notes: tuple[str, ...]
) -> Radiograph:
    aspect = _pixel_aspect(dataset)
    if aspect != 1.0:
        notes = (*notes, f"pixels are {aspect:g} times as high as wide")
    return Radiograph(
        pixels,
        float(full_range),
        bits,
        _metadata(dataset),
        str(dataset.get("PatientID") or "").strip() or None,
        notes,
        aspect,
        _date(dataset),
        str(dataset.get("BurnedInAnnotation") or "").strip().upper() == "YES",
    )


def _frame(dataset: pydicom.Dataset, syntax: UID) -> tuple[np.ndarray, Codestream | None]:
    """The frame as integers, (rows, columns) or (rows, columns, samples), and its codestream's header if it has one."""
    rows, columns = _whole_number(dataset, "Rows"), _whole_number(dataset, "Columns")
    samples = _whole_number(dataset, "SamplesPerPixel", 1)
    if samples not in (1, 3):
        raise DecodeError(f"{samples} samples a pixel; a radiograph has 1, a picture in colour 3")
    try:
        encapsulated = syntax.is_encapsulated
    except ValueError:  # no syntax or one that is not known
        encapsulated = bool(dataset["PixelData"].is_undefined_length)
    if not encapsulated:
        return _native(dataset, rows, columns, samples, big_endian=syntax == ExplicitVRBigEndian), None
    if syntax == RLELossless:
        return _run_length(dataset), None
    try:
        data = get_frame(dataset.PixelData, 0, number_of_frames=1)
    except Exception:  # whatever a damaged sequence of fragments makes pydicom raise
        raise DecodeError("the file is damaged or cut short: its compressed picture is incomplete") from None
    header = read_codestream(data)
    if (header.rows, header.columns) != (rows, columns):
        raise DecodeError(
            f"its header says {columns}x{rows} pixels, its compressed picture {header.columns}x{header.rows}"
        )
    return decode_codestream(data, header), header


def _run_length(dataset: pydicom.Dataset) -> np.ndarray:
    try:
        return get_decoder(RLELossless).as_array(dataset, raw=True)[0]
    except Exception:  # ValueError and others, for segments that are too short among them
        raise DecodeError("the file is damaged or cut short: its RLE picture does not decode") from None


def _native(
    dataset: pydicom.Dataset, rows: int, columns: int, samples: int, *, big_endian: bool
) -> np.ndarray:
    allocated = _whole_number(dataset, "BitsAllocated")
    data = bytes(dataset.PixelData)
    if allocated == 1 and samples == 1:
        packed = np.frombuffer(data, np.uint8)
        bits = np.unpackbits(packed, bitorder="little")
        _check_length(len(bits), rows * columns)
        return bits[: rows * columns].reshape(rows, columns)
    if allocated not in (8, 16, 32):
        raise DecodeError(f"pixels of {allocated} bits; 1, 8, 16 or 32 can be read")
    if str(dataset.get("PhotometricInterpretation") or "").endswith("422"):
        raise DecodeError("uncompressed YBR_FULL_422 pixels; export it in grey")
    item = allocated // 8
    _check_length(len(data), rows * columns * samples * item)
    if big_endian and item == 1 and dataset["PixelData"].VR == "OW":
        data = np.frombuffer(data[: len(data) // 2 * 2], ">u2").astype("<u2").tobytes()
    pixels = np.frombuffer(data, f"{'>' if big_endian else '<'}u{item}", rows * columns * samples)
    if samples == 1:
        return pixels.reshape(rows, columns)
    if _whole_number(dataset, "PlanarConfiguration", 0) == 1:
        return np.moveaxis(pixels.reshape(samples, rows, columns), 0, -1)
    return pixels.reshape(rows, columns, samples)


def _check_length(have: int, need: int) -> None:
    if have < need:
        raise DecodeError(f"the file is cut short: {have} of {need} values of its picture are there")


def _photometric(dataset: pydicom.Dataset, raw: np.ndarray) -> str:
    """How samples are meant; one sample a pixel is grey, three are colour, whatever else is stated."""
    stated = str(dataset.get("PhotometricInterpretation") or "").strip().upper()
    if raw.ndim == 3:
        return stated if stated.startswith("YBR") else "RGB"
    if stated in ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"):
        return stated
    return "MONOCHROME2"


def _overlay_bits(dataset: pydicom.Dataset) -> int:
    """Mask of the bits of a pixel that the file declares to hold overlays (PS3.3 C.9.2, retired)."""
    mask = 0
    for group in range(0x6000, 0x6020, 2):
        position = dataset.get((group, 0x0102))
        if position is not None and isinstance(position.value, int) and 0 < position.value < 32:
            mask |= 1 << position.value
    return mask


def _pixel_aspect(dataset: pydicom.Dataset) -> float:
    """Height over width of a pixel: spacing, else the aspect ratio; 1 where neither makes sense."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio"):
        value = dataset.get(keyword)
        try:
            height, width = (float(side) for side in value)
        except (TypeError, ValueError):
            continue
        if height > 0 and width > 0 and 0.1 <= height / width <= 10:
            return round(height / width, 4)
    return 1.0


def _metadata(dataset: pydicom.Dataset) -> dict[str, str]:
    found = {name: str(dataset.get(key, "") or "").strip() for key, name in _METADATA.items()}
    sex = str(dataset.get("PatientSex") or "").strip().upper()
    found["sex"] = sex if sex in _SEXES else ""
    found["age"] = _age_in_years(str(dataset.get("PatientAge", "") or ""))
    return {name: value for name, value in found.items() if value}


def _date(dataset: pydicom.Dataset) -> str | None:
    """The first of its dates that is one, as 2019-06-30; any other text in its place could be told by a message."""
    for key in ("AcquisitionDate", "StudyDate", "ContentDate"):
        try:
            found = dates.parse(str(dataset.get(key) or ""), key)
        except UserError:
            continue
        if len(found) == 3:
            return datetime.date(*found).isoformat()
    return None


def _age_in_years(value: str) -> str:
    """DICOM age string (PS3.5: nnnD, nnnW, nnnM, nnnY) in years, or '' where it is none."""
    value = value.strip()
    if len(value) == 4 and value.isascii() and value[:3].isdigit() and value[3] in _YEARS:
        return f"{int(value[:3]) * _YEARS[value[3]]:g}"
    return ""
