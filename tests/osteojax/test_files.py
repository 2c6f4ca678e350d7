"""Cells that no spreadsheet runs give back the text that they were made of."""

import csv

from hypothesis import given
from hypothesis import strategies as st

from osteojax.files import csv_cell, csv_text, write_csv

_TEXT = st.text(st.one_of(st.sampled_from("'=+-@\t\r\n,\"5"), st.characters(codec="utf-8")), max_size=8)


@given(_TEXT)
def test_a_cell_gives_its_text_back_and_begins_no_formula(text):
    cell = csv_cell(text)
    assert csv_text(cell) == text
    assert not cell.startswith(("=", "@", "\t", "\r", "\n"))


def test_a_table_gives_its_cells_back(tmp_path):
    rows = [["'=a", "=a", "''+b", "-5"], ["'-5", "x'", "a\r\nb", " "]]
    write_csv(tmp_path / "t.csv", ["a", "b", "c", "d"], rows)
    with (tmp_path / "t.csv").open(newline="") as file:
        assert [[csv_text(cell) for cell in row] for row in csv.reader(file)][1:] == rows
