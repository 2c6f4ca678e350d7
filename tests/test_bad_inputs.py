"""The table of bad inputs: none stops a run or changes a good file, and what is read is what may be read."""

import importlib.util
import sys
from pathlib import Path

import pytest

# By its path: with the folder on sys.path its bm3d.py would be taken for the package bm3d.
_SPEC = importlib.util.spec_from_file_location(
    "bad_inputs", Path(__file__).resolve().parents[1] / "benchmarks" / "bad_inputs.py"
)
bad_inputs = importlib.util.module_from_spec(_SPEC)
sys.modules["bad_inputs"] = bad_inputs  # dataclasses look their module up
_SPEC.loader.exec_module(bad_inputs)

READ = {
    "PNG without its end.png",
    "JPEG named.png",
    "PNG named.dcm",
    "palette.png",
    "grey and alpha.png",
    "transparent throughout.png",
    "CMYK.jpg",
    "16 bits.png",
    "DICOM of negative slope.dcm",
    "DICOM with a window of width 0.dcm",
    "DICOM of slope 0.dcm",
    "DICOM of an unknown transfer syntax.dcm",
    "DICOM that stores 17 bits in 16.dcm",
    "PNG that is a ZIP as well.png",
    "line\nbreak.png",
    "bell\a and escape\x1b[31m.png",
    "right to left \u202egnp.exe.png",
    "n" * 240 + ".png",
    "=HYPERLINK(1).png",
}
NOTED = {
    "transparent throughout.png",
    "DICOM with a window of width 0.dcm",
    "DICOM of slope 0.dcm",
    "DICOM of an unknown transfer syntax.dcm",
}
PASSED_OVER = {".hidden.png", "Thumbs.db", "a directory named.png"}
REFUSED = {
    *("empty", "a heading alone", "no heading", "no column of files", "no column of labels"),
    *(
        "two columns of labels",
        "two columns that could be the label",
        "an empty file name",
        "Latin-1",
        "NUL bytes",
    ),
    *(
        "a quote that is never closed",
        "too many cells in a row",
        "too few cells in a row",
        "an unknown split",
    ),
    *("a patient in two splits", "a cell of 200,000 characters", "a picture instead of a table"),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    cases, same = bad_inputs.bad_files(tmp_path_factory.mktemp("bad"))
    return {case.name: case.outcome for case in cases}, same


def test_bad_files_are_quarantined_each_with_its_reason(files):
    outcomes, _ = files
    assert {name for name, told in outcomes.items() if told.startswith("read")} == READ
    assert {name for name, told in outcomes.items() if "note" in told} == NOTED
    assert {name for name, told in outcomes.items() if told == "passed over"} == PASSED_OVER
    reasons = [told for told in outcomes.values() if told.startswith("quarantined: ")]
    assert len(reasons) == len(outcomes) - len(READ) - len(PASSED_OVER)
    assert not [r for r in reasons if "Error" in r or "Traceback" in r or "identical pixels" in r]


def test_good_files_among_bad_ones_come_out_the_same_to_the_bit(files):
    assert files[1]


def test_bad_tables_are_refused_in_a_line_or_read(tmp_path):
    cases = {case.name.removeprefix("labels.csv: "): case.outcome for case in bad_inputs.bad_tables(tmp_path)}
    refused = {name: told for name, told in cases.items() if told.startswith("refused: ")}
    assert set(refused) == REFUSED
    assert all(
        (told.startswith("refused: osteojax prep: ") and "labels.csv" in told) or "leak" in told
        for told in refused.values()
    )
    assert all(
        told.startswith(("5 of 6 read; ", "6 of 6 read"))
        for told in cases.values()
        if told not in refused.values()
    )


def test_there_are_many_and_no_two_of_one_name():
    names = [*bad_inputs.CONTENTS, *bad_inputs.PLACES, *bad_inputs.TABLES]
    assert len(set(names)) == len(names) >= 60
