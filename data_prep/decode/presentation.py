"""Stored values to presentation values: modality, VOI, padding, inversion (PS3.3 C.7.5.1.1.2, C.11.1, C.11.2).

What becomes of a pixel depends on its stored value and on what values there are: each is looked at once, whatever the
number of pixels that have it (`distinct`), and the picture is put together at the end (`picture`).

A transformation that makes no sense (an empty rescale, a window of no width, one that shows nothing of the data) is
left out, and the notes say so: the picture is there, only its presentation is broken.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import pydicom

from data_prep.bands import bands
from data_prep.decode.lookup_table import read_table
from data_prep.decode.radiograph import DecodeError

# A presentation that leaves fewer of the measured pixels than this between its two ends shows no picture.
_SHOWN_SHARE = 2e-3
# Values that lie farther apart than all of 16 bits are sought, not looked up.
_TABLE = 2**16


@dataclasses.dataclass(frozen=True)
class Presentation:
    """Values on their way to the screen.

    Attributes:
        values: float64 or integers, (n,): what the picture's distinct stored values, in ascending order, have become.
        pixels: (n,) how many pixels have each.
        low, high: smallest and largest value that the encoding can hold.
        notes: what was left out on the way.
    """

    values: np.ndarray
    pixels: np.ndarray
    low: float
    high: float
    notes: tuple[str, ...] = ()

    def noted(self, note: str) -> "Presentation":
        """The same with a further note."""
        return dataclasses.replace(self, notes=(*self.notes, note))


def distinct(stored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values in (rows, columns) integers in ascending order, int64, and how many pixels have each."""
    low, high = int(stored.min()), int(stored.max())
    if high - low > _TABLE:
        values, pixels = np.unique(stored, return_counts=True)
        return values.astype(np.int64), pixels
    pixels = np.zeros(high - low + 1, np.int64)
    for rows in bands(*stored.shape):
        pixels += np.bincount(stored[rows].astype(np.int64).ravel() - low, minlength=len(pixels))
    there = np.flatnonzero(pixels)
    return there + low, pixels[there]


def picture(stored: np.ndarray, values: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """The float32 (rows, columns) picture of (rows, columns) integers.

    Args:
        stored: the integers.
        values: (n,) those that there are, as of `distinct`.
        shown: (n,) what each becomes.
    """
    low, high = int(values[0]), int(values[-1])
    pixels = np.empty(stored.shape, np.float32)
    if high - low > _TABLE:
        for rows in bands(*stored.shape):
            pixels[rows] = shown[np.searchsorted(values, stored[rows])]
        return pixels
    table = np.zeros(high - low + 1, np.float32)
    table[values - low] = shown
    for rows in bands(*stored.shape):
        pixels[rows] = table[stored[rows].astype(np.int64) - low]
    return pixels


def number(dataset: pydicom.Dataset, keyword: str) -> float | None:
    """The first value of a numeric element as a finite float; None where it is absent, empty or no number."""
    try:
        value = dataset.get(keyword)
        first = value[0] if isinstance(value, Sequence) and not isinstance(value, str | bytes) else value
        found = float(first)
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def modality(stored: Presentation, dataset: pydicom.Dataset, *, big_endian: bool) -> Presentation:
    """Stored values to the modality's values: the Modality LUT, else slope and intercept."""
    if items := _items(dataset, "ModalityLUTSequence"):
        try:
            table = read_table(items[0], stored.values, stored.pixels, big_endian=big_endian)
        except DecodeError as error:
            return stored.noted(f"Modality LUT ignored: {error}")
        shown = dataclasses.replace(stored, values=table(stored.values), low=table.low, high=table.high)
        if _is_blank(shown.values) and not _is_blank(stored.values):
            return stored.noted("Modality LUT ignored: it leaves nothing to see")
        return shown
    slope, intercept = number(dataset, "RescaleSlope"), number(dataset, "RescaleIntercept")
    if slope is None and intercept is None:
        return stored
    if slope == 0:
        return stored.noted("rescale slope of 0 ignored")
    slope = 1.0 if slope is None else slope
    intercept = 0.0 if intercept is None else intercept
    low, high = sorted((stored.low * slope + intercept, stored.high * slope + intercept))
    return dataclasses.replace(stored, values=stored.values * slope + intercept, low=low, high=high)


def voi(
    given: Presentation, dataset: pydicom.Dataset, measured: np.ndarray, *, big_endian: bool
) -> Presentation:
    """The modality's values to those to look at: the first VOI LUT, else the first window, else as they are.

    Args:
        given: modality values.
        dataset: of the file.
        measured: (n,) bool, True where a value is no padding.
        big_endian: byte order of the file.
    """
    ways: list[tuple[str, Callable[[], Presentation]]] = []
    if items := _items(dataset, "VOILUTSequence"):

        def by_table() -> Presentation:
            table = read_table(items[0], given.values, given.pixels, big_endian=big_endian)
            return dataclasses.replace(given, values=table(given.values), low=table.low, high=table.high)

        ways.append(("VOI LUT", by_table))
    centre, width = number(dataset, "WindowCenter"), number(dataset, "WindowWidth")
    if centre is not None and width is not None:
        function = str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper()
        ways.append(("window", lambda: _window(given, centre, width, function)))
    notes: tuple[str, ...] = ()
    for name, way in ways:
        try:
            shown = way()
        except DecodeError as error:
            notes = (*notes, f"{name} ignored: {error}")
            continue
        if _shows(shown, measured) or not _shows(given, measured):
            return dataclasses.replace(shown, notes=(*shown.notes, *notes))
        notes = (*notes, f"{name} ignored: it leaves nothing to see")
    return dataclasses.replace(given, notes=(*given.notes, *notes))


def _window(given: Presentation, centre: float, width: float, function: str) -> Presentation:
    """C.11.2.1.2 and C.11.2.1.3, onto the whole range of `given`."""
    x = np.asarray(given.values, np.float64)
    low, span = given.low, given.high - given.low
    if function == "SIGMOID" and width > 0:
        exponent = np.clip(-4 * (x - centre) / width, -700, 700)
        return dataclasses.replace(given, values=span / (1 + np.exp(exponent)) + low)
    if function == "LINEAR" and width >= 1:
        centre, width = centre - 0.5, width - 1
    elif function not in ("LINEAR", "LINEAR_EXACT"):
        raise DecodeError("its function is none of the standard's")
    elif function == "LINEAR" or width <= 0:
        raise DecodeError(f"a width of {width:g} makes no sense")
    below, above = x <= centre - width / 2, x > centre + width / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        shown = ((x - centre) / width + 0.5) * span + low
    return dataclasses.replace(given, values=np.where(below, low, np.where(above, low + span, shown)))


def invert(given: Presentation) -> Presentation:
    """Bright to dark."""
    return dataclasses.replace(given, values=given.low + given.high - given.values)


def padding_mask(stored: np.ndarray, dataset: pydicom.Dataset, allocated: int, *, signed: bool) -> np.ndarray:
    """Which values are padding (C.7.5.1.1.2); the value's 16 bits count, whatever VR they were written under."""
    first = number(dataset, "PixelPaddingValue")
    if first is None:
        return np.zeros(stored.shape, bool)
    last = number(dataset, "PixelPaddingRangeLimit")
    ends = [_of_representation(v, allocated, signed=signed) for v in (first, first if last is None else last)]
    return (stored >= min(ends)) & (stored <= max(ends))


def _of_representation(value: float, allocated: int, *, signed: bool) -> int:
    pattern = int(value) % 2**allocated
    return pattern - 2**allocated if signed and pattern >= 2 ** (allocated - 1) else pattern


def _items(dataset: pydicom.Dataset, keyword: str) -> list[pydicom.Dataset]:
    value = dataset.get(keyword)
    return list(value) if isinstance(value, pydicom.Sequence) else []


def _is_blank(values: np.ndarray) -> bool:
    return bool(values.min() == values.max())


def _shows(given: Presentation, measured: np.ndarray) -> bool:
    """Whether the measured pixels make a picture: not one value, and not all at the two ends of what they span."""
    measured = measured if measured.any() else ~measured
    values, pixels = given.values[measured], given.pixels[measured]
    low, high = values.min(), values.max()
    between = pixels[(values > low) & (values < high)].sum()
    return bool(low < high and between >= _SHOWN_SHARE * pixels.sum())
