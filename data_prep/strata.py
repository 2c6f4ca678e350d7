"""What a split is stratified by: classes, and columns of the source as levels."""

import math
from collections.abc import Sequence

import numpy as np

UNKNOWN = ""
"""The level of images of which a column says nothing."""
BINS = 4
"""Of a column of numbers: quartiles, unless it has no more different values than that."""


def levels(values: Sequence[str | None]) -> list[str]:
    """The level of each image in a column.

    Words are levels as they are. Numbers of more than four different values are divided at their quartiles, a
    value that is one going to the upper side. What is unknown is a level of its own.

    Args:
        values: of the column; None where it is unknown.
    """
    known = [value for value in values if value is not None]
    numbers = [_number(value) for value in known]
    if None in numbers or len(set(numbers)) <= BINS:
        return [UNKNOWN if value is None else value for value in values]
    cuts = np.unique(
        np.quantile([number for number in numbers if number is not None], np.arange(1, BINS) / BINS)
    )
    return [
        UNKNOWN if value is None else f"bin {np.searchsorted(cuts, float(value), side='right')}"
        for value in values
    ]


def cells(columns: Sequence[Sequence[str]]) -> list[tuple[tuple[object, ...], ...]]:
    """What of a split's count each image adds to: its level of each column, and of several those together.

    Args:
        columns: the levels of all images in each column.
    """
    found = []
    for image in zip(*columns, strict=True):
        alone: tuple[tuple[object, ...], ...] = tuple(enumerate(image))
        found.append(alone if len(image) == 1 else (*alone, image))
    return found


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
