"""Policies at their limits."""

import csv

import pytest

from data_prep.policies import check_quarantine
from data_prep.source import Rejected
from osteojax.errors import UserError


def rejected(count: int) -> list[Rejected]:
    return [Rejected(f"{i}.png", f"reason {i}") for i in range(count)]


@pytest.mark.parametrize(("count", "total", "most"), [(0, 4, 0.0), (1, 4, 0.25), (3, 4, 0.75), (3, 4, 1.0)])
def test_as_many_as_are_allowed_go_on(tmp_path, count, total, most):
    check_quarantine(rejected(count), total, tmp_path, most)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("count", "total", "most"), [(1, 4, 0.0), (2, 4, 0.25), (4, 4, 0.75)])
def test_one_more_stops_the_run_and_all_are_listed(tmp_path, count, total, most):
    with pytest.raises(UserError, match=rf"stopped: {count} of {total} files .*0\.png: reason 0") as found:
        check_quarantine(rejected(count), total, tmp_path, most)
    assert f"max_fraction={most:g}" in str(found.value) and str(tmp_path / "quarantine.csv") in str(
        found.value
    )
    with (tmp_path / "quarantine.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["file"] for row in rows] == [f"{i}.png" for i in range(count)]


@pytest.mark.parametrize("total", [1, 4])
def test_nothing_left_is_no_success_even_where_all_may_be_left_out(tmp_path, total):
    with pytest.raises(UserError, match="no image is left to prepare"):
        check_quarantine(rejected(total), total, tmp_path, 1.0)
