"""Dates of tables and headers, and what is after what."""

import pytest

from data_prep.dates import is_after, parse
from osteojax.errors import UserError


@pytest.mark.parametrize(
    ("text", "date"),
    [
        ("2019", (2019,)),
        ("2019-06", (2019, 6)),
        ("2019-06-30", (2019, 6, 30)),
        (" 2019/6/3 ", (2019, 6, 3)),
        ("20190630", (2019, 6, 30)),
        ("2019-06-30T10:00:00", (2019, 6, 30)),
    ],
)
def test_dates_are_read_year_first(text, date):
    assert parse(text, "x") == date


@pytest.mark.parametrize(
    "text", ["", "30.06.2019", "2019-13", "2019-02-30", "19", "06/30/2019", "0000", "nan"]
)
def test_what_is_no_date_is_told(text):
    with pytest.raises(UserError, match="is no date; write it year first"):
        parse(text, "x")


def test_the_boundary_itself_is_before_and_what_is_too_coarse_is_not_known():
    day = (2019, 6, 30)
    assert [is_after(d, day) for d in ((2019, 6, 30), (2019, 7, 1), (2019, 6, 29))] == [False, True, False]
    assert [is_after(d, day) for d in ((2019,), (2019, 6), (2019, 7), (2020,), (2018,))] == [
        None,
        None,
        True,
        True,
        False,
    ]
    assert [is_after(d, (2019,)) for d in ((2019, 12, 31), (2020, 1, 1), (2019,))] == [False, True, False]
