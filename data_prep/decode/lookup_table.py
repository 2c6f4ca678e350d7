"""DICOM lookup tables (PS3.3 C.11.1.1 and C.11.2.1.1), whatever their descriptor says of them.

Writers err in all three numbers of the descriptor: the first mapped value stands under the wrong VR, entries are packed
two in a word or one, the declared bits are not those in use. The data decide.
"""

import dataclasses

import numpy as np
import pydicom

from data_prep.decode.radiograph import DecodeError


@dataclasses.dataclass(frozen=True)
class LookupTable:
    """A table that maps integers.

    Attributes:
        first: the input that the first entry belongs to; inputs below take it, inputs beyond the last take the last.
        entries: (n,) int64.
        low, high: smallest and largest output that its encoding can hold.
    """

    first: int
    entries: np.ndarray
    low: int
    high: int

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """The outputs, int64, of integers or whole floats of any shape."""
        index = np.rint(values).astype(np.int64) - self.first
        return self.entries[np.clip(index, 0, len(self.entries) - 1)]


def read_table(
    item: pydicom.Dataset, values: np.ndarray, pixels: np.ndarray, *, big_endian: bool
) -> LookupTable:
    """The table of a Modality or VOI LUT sequence item.

    Args:
        item: with LUTDescriptor and LUTData.
        values: (n,) the inputs that it is for; they tell which reading of the first mapped value is meant.
        pixels: (n,) how many pixels have each.
        big_endian: byte order of the file, for tables stored as bytes.

    Raises:
        DecodeError: there are no entries, or the descriptor is not three numbers.
    """
    descriptor = item.get("LUTDescriptor")
    data = item.get("LUTData")
    if descriptor is None or data is None or not hasattr(descriptor, "__len__") or len(descriptor) != 3:
        raise DecodeError("its lookup table is incomplete")
    count = int(descriptor[0]) % 2**16 or 2**16
    entries = _entries(data, count, int(descriptor[2]), big_endian)
    if not len(entries):
        raise DecodeError("its lookup table has no entries")
    entries, signed = _signed_if_smoother(entries)
    bits = _bits(entries, int(descriptor[2]))
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return LookupTable(_first(int(descriptor[1]), len(entries), values, pixels), entries, low, high)


def _entries(data: bytes | list[int] | int, count: int, bits: int, big_endian: bool) -> np.ndarray:
    """The entries as unsigned integers; two in a word where there are half as many words as entries."""
    if isinstance(data, bytes):
        wide = len(data) not in (count, count + 1) and (bits > 8 or len(data) >= 2 * count - 1)
        order = ">" if big_endian else "<"
        usable = data[: len(data) // 2 * 2]
        words = np.frombuffer(usable, f"{order}u2") if wide else np.frombuffer(data, np.uint8)
        return words[:count].astype(np.int64)
    words = np.atleast_1d(np.asarray(data, np.int64)) & 0xFFFF
    if len(words) == (count + 1) // 2 and count > 1:
        packed = words.astype("<u2").view(np.uint8)  # the first of the two in the low byte (PS3.5, D)
        return packed[:count].astype(np.int64)
    return words[:count]


def _signed_if_smoother(entries: np.ndarray) -> tuple[np.ndarray, bool]:
    """The entries read as signed words where that is the reading without a jump of half the range."""
    signed = np.where(entries >= 2**15, entries - 2**16, entries)
    roughness = [int(np.abs(np.diff(reading)).sum()) for reading in (entries, signed)]
    return (signed, True) if roughness[1] < roughness[0] else (entries, False)


def _bits(entries: np.ndarray, declared: int) -> int:
    """Bits of an entry: the declared ones, unless the entries need more, or fewer by two and more."""
    needed = max(int(np.abs(entries).max()).bit_length() + bool(entries.min() < 0), 1)
    if not 8 <= declared <= 16:
        return max(needed, 8)
    return needed if needed > declared or needed < declared - 1 else declared


def _first(stated: int, count: int, values: np.ndarray, pixels: np.ndarray) -> int:
    """The first mapped value, as stated or as the same 16 bits of the other sign: whichever covers more pixels."""
    pattern = stated % 2**16
    readings = (stated, pattern, pattern - 2**16)

    def covered(first: int) -> int:
        return int(pixels[(values >= first) & (values < first + count)].sum())

    return max(readings, key=covered)
