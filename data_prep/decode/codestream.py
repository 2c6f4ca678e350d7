"""JPEG, JPEG-LS and JPEG 2000 codestreams: what they say of themselves, whether they are whole, their samples.

A codestream's own size is read and compared before anything is decoded: a file of two kilobytes can claim gigabytes.
"""

import dataclasses
import struct
from collections.abc import Callable

import libjpeg
import numpy as np
import openjpeg

from data_prep.decode.radiograph import DecodeError

# JPEG 2000 ends as JPEG does.
_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_J2K_START, _JP2_START = b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  "
# Start-of-frame markers (T.81, table B.1, and T.87): all of C0 to CF but DHT, JPG and DAC, and JPEG-LS's F7.
_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_LOSSLESS_FRAMES = {0xC3, 0xC7, 0xCB, 0xCF}
_JPEG_LS = 0xF7
# Markers without a length: TEM, RST0 to RST7, SOI.
_BARE = {0x01, *range(0xD0, 0xD9)}
_START_OF_SCAN = 0xDA


@dataclasses.dataclass(frozen=True)
class Codestream:
    """What a codestream's header says.

    Attributes:
        name: of the compression, for messages.
        rows, columns, samples: of the picture.
        precision: bits of a sample.
        signed: whether samples are signed (JPEG 2000 alone can say so).
        lossless: whether samples come out as they went in; None where the header does not tell.
    """

    name: str
    rows: int
    columns: int
    samples: int
    precision: int
    signed: bool = False
    lossless: bool | None = None


def read_codestream(data: bytes) -> Codestream:
    """Reads the header; nothing is decoded.

    Raises:
        DecodeError: it is no codestream of these kinds, or its header is damaged.
    """
    try:
        if data.startswith(_JPEG_START):
            return _read_jpeg(data)
        if data.startswith((_J2K_START, _JP2_START)):
            return _read_jpeg2000(data)
    except (struct.error, IndexError):
        raise DecodeError("the file is damaged: the header of its compressed picture is cut short") from None
    raise DecodeError("its compressed picture is neither JPEG, JPEG-LS nor JPEG 2000")


def _read_jpeg(data: bytes) -> Codestream:
    position, near = 2, None
    frame: tuple[int, int, int, int, int] | None = None
    while True:
        if data[position] != 0xFF:
            raise DecodeError("the file is damaged: the header of its JPEG picture does not read")
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker in _BARE:
            position += 2
            continue
        (length,) = struct.unpack_from(">H", data, position + 2)
        if marker in _FRAMES:
            frame = (marker, *struct.unpack_from(">BHHB", data, position + 4))
        if marker == _START_OF_SCAN:
            near = data[position + 4 + 1 + 2 * data[position + 4]]
            break
        position += 2 + length
    if frame is None:
        raise DecodeError("the file is damaged: its JPEG picture has no frame header")
    marker, precision, rows, columns, samples = frame
    if marker == _JPEG_LS:
        return Codestream("JPEG-LS", rows, columns, samples, precision, lossless=near == 0)
    return Codestream("JPEG", rows, columns, samples, precision, lossless=marker in _LOSSLESS_FRAMES)


def _read_jpeg2000(data: bytes) -> Codestream:
    start = data.find(_J2K_START)
    if start < 0:
        raise DecodeError("the file is damaged: its JPEG 2000 picture has no codestream")
    # T.800, A.5.1: length, capabilities, size, offset, tile size and offset, number of components, their precision.
    x, y, x_offset, y_offset = struct.unpack_from(">4I", data, start + 8)
    (samples,) = struct.unpack_from(">H", data, start + 40)
    depth = data[start + 42]
    return Codestream(
        "JPEG 2000",
        y - y_offset,
        x - x_offset,
        samples,
        (depth & 0x7F) + 1,
        signed=bool(depth & 0x80),
        lossless=_is_reversible(data, start),
    )


def _is_reversible(data: bytes, start: int) -> bool | None:
    """Whether the wavelet of the first COD segment is the 5/3 one, which loses nothing where no layer is cut off."""
    position = start + 2
    for _ in range(64):
        marker, length = struct.unpack_from(">HH", data, position)
        if marker == 0xFF52:
            return data[position + 13] == 1
        position += 2 + length
    return None


def decode_codestream(data: bytes, header: Codestream) -> np.ndarray:
    """Decodes a whole codestream.

    Returns:
        (rows, columns) or (rows, columns, samples), integers as the codestream has them.

    Raises:
        DecodeError: it is cut short or damaged.
    """
    # What stands behind the end marker is padding; within the picture no such bytes can be.
    end = data.rfind(_JPEG_END)
    if end < 0:
        raise DecodeError(f"the file is cut short: its {header.name} picture has no end")
    data = data[: end + len(_JPEG_END)]
    samples = _samples(data, header)
    if header.name != "JPEG 2000" and is_cut(data, samples, lambda stream: _samples(stream, header)):
        raise DecodeError(f"the file is cut short: part of its {header.name} picture is missing")
    return samples


def _samples(data: bytes, header: Codestream) -> np.ndarray:
    try:
        return (
            openjpeg.decode(data) if header.name == "JPEG 2000" else libjpeg.decode(data, colour_transform=0)
        )
    except Exception:  # bare RuntimeErrors, and whatever a damaged stream makes numpy raise
        raise DecodeError(
            f"the file is damaged or cut short: its {header.name} picture does not decode"
        ) from None


def is_cut(data: bytes, samples: np.ndarray, decode: Callable[[bytes], np.ndarray]) -> bool:
    """Whether the entropy-coded data of a JPEG end before its picture does.

    Decoders fill in what is missing and say nothing. But a decoder of a whole picture never looks at further data
    before the end marker, and that of a cut one takes them for its picture: so it is decoded again with some.

    Args:
        data: the codestream, to its end marker.
        samples: what it decodes to.
        decode: the decoder.
    """
    # No 0xFF among them, which would be a marker.
    further = np.random.default_rng(0).integers(0, 255, 512, np.uint8).tobytes()
    try:
        return not np.array_equal(samples, decode(data[: data.rindex(_JPEG_END)] + further + _JPEG_END))
    except DecodeError:
        return True
