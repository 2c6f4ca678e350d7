"""Whose images they are, by ids as people and machines write them."""

import pytest

from data_prep.patients import (
    assign_patients,
    equal_after_folding,
    fold,
    given_id,
    header_id,
    holding_too_many,
    patient_warnings,
)


@pytest.mark.parametrize(
    "text", ["", " ", "nan", "NaN", "None", "null", "N/A", "NA", "<NA>", "#N/A", "-", "?", "Unknown"]
)
def test_what_stands_for_nothing_is_no_patient(text):
    assert given_id(text) is None


@pytest.mark.parametrize(
    ("text", "patient"),
    [("7", "7"), ("7.0", "7"), ("7.00", "7"), ("007", "007"), ("7.5", "7.5"), (" P7 ", "P7")],
)
def test_ids_are_text_but_for_a_spreadsheets_float(text, patient):
    assert given_id(text) == patient


@pytest.mark.parametrize(
    "text",
    [
        "ANONYMOUS",
        "Anonymized",
        "anonymised^patient"[:10],
        "ANON",
        "0",
        "0000",
        "NO ID",
        "Patient",
        "TEST",
        "XXX",
        "removed",
        "De-identified",
        None,
        "",
    ],
)
def test_a_header_that_names_nobody(text):
    assert header_id(text) is None


@pytest.mark.parametrize("text", ["4711", "P-0", "TESTA", "Anonym-17", "10"])
def test_a_header_that_names_somebody(text):
    assert header_id(text) == text


VARIANTS = (
    "P007",
    "p007",
    "P 007",
    "\uff30\uff10\uff10\uff17",
    "P\u200b007",
    "P\u00a0007",
    "P-007",
    "P_007",
    "p.007 ",
)


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_fold_to_one(variant):
    assert fold(variant) == "p007"


def test_different_people_stay_different():
    assert len({fold(p) for p in ("P007", "P008", "Q007", "P0071", "\u00c9va", "Eva")}) == 6
    assert equal_after_folding(["P1", "P2", "3", "4"]) == []
    assert equal_after_folding(["012", "12", "P1"]) == [["012", "12"]]


def test_ids_equal_after_folding_are_warned_of_by_name():
    patients = {f"{i}.png": variant for i, variant in enumerate(VARIANTS)} | {"x.png": "Q1"}
    (warning,) = patient_warnings(patients)
    assert "1 patients seem to have several ids" in warning and "'P007'" in warning and "Q1" not in warning


def test_a_patient_with_everybodys_images_is_warned_of():
    everybody = {f"{i}.png": "A" for i in range(9)}
    assert holding_too_many(list(everybody.values())) == [("A", 9)]
    assert "patient 'A' holds 9 of 9 images" in patient_warnings(everybody)[0]
    ordinary = {f"{i}.png": f"P{i // 6}" for i in range(60)}
    assert patient_warnings(ordinary) == []
    few = ordinary | {f"z{i}.png": "Z" for i in range(80)}
    assert "patient 'Z' holds 80 of 140" in patient_warnings(few)[0]


def test_patients_are_numbered_in_the_order_of_the_files():
    files = ["a", "b", "c", "d"]
    patients = assign_patients(files, [None, "P1", None, None], ["h1", "h2", "h1", None])
    assert patients == {"a": "dicom-00001", "b": "P1", "c": "dicom-00001", "d": "d"}
    assert "1 of 4 images have no patient_id" in patient_warnings(patients)[0]
