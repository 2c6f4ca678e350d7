"""Dates as tables and DICOM headers have them: 2019, 2019-06, 2019-06-30, 20190630."""

import datetime
import re

from osteojax.errors import UserError

_DATE = re.compile(r"(\d{4})(?:[-./](\d{1,2})(?:[-./](\d{1,2}))?)?(?:[T ].*)?|(\d{4})(\d{2})(\d{2})")
Date = tuple[int, ...]
"""Year; year and month; or year, month and day."""


def parse(text: str, what: str) -> Date:
    """The date that a text stands for.

    Args:
        text: year first; the time of the day is passed over.
        what: it is, for the message.

    Raises:
        UserError: it is no date.
    """
    found = _DATE.fullmatch(text.strip())
    parts = tuple(int(part) for part in found.groups() if part) if found else ()
    try:
        datetime.date(*(*parts, 1, 1)[:3])
    except (TypeError, ValueError):
        raise UserError(
            f"{what}: {text!r:.50} is no date; write it year first, as in 2019-06-30, 2019-06 or 2019"
        ) from None
    return parts


def is_after(date: Date, boundary: Date) -> bool | None:
    """Whether a date lies after another one and not within it; None where it is too coarse to tell."""
    common = min(len(date), len(boundary))
    if date[:common] == boundary[:common] and len(date) < len(boundary):
        return None
    return date[:common] > boundary[:common]
