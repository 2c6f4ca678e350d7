"""Columns as numbers: standardised by training, missing and unheard-of values, and what may not be a column."""

import clinical
import numpy as np
import pytest

from osteojax.data import columns as module
from osteojax.data.columns import CLINICAL, T_SCORE, Columns, beside
from osteojax.data.dataset import PreparedDataset
from osteojax.errors import UserError

NAN = float("nan")
ROWS = [
    {"age": 50.0, "sex": b"F"},
    {"age": 70.0, "sex": b"M"},
    {"age": NAN, "sex": b""},
    {"age": 60.0, "sex": b"F"},
]
LABELS = np.asarray([0, 1, 0, 1])


@pytest.fixture(scope="module")
def columns():
    return Columns.fit(ROWS, ("age", "sex"), LABELS)


def test_numbers_are_standardised_by_training_and_categories_are_places(columns):
    sd = np.std([50, 70, 60])
    expected = [
        [-10 / sd, 1, 0, 0, 0],
        [10 / sd, 0, 1, 0, 0],
        [0, 0, 0, 1, 1],
        [0, 1, 0, 0, 0],
    ]
    np.testing.assert_allclose(columns.encode(ROWS), expected, rtol=1e-6)
    assert columns.width == 5 and columns.encode(ROWS).dtype == np.float32
    age, sex = columns.columns
    assert (age.known, age.missing, age.mean) == (3, 1, 60) and (sex.known, sex.categories) == (3, ("F", "M"))


def test_what_training_never_saw_is_unknown_and_other_images_change_no_statistics(columns):
    rows = [{"age": "80", "sex": "other"}, {"age": "inf", "sex": "Unknown"}, {"age": "", "sex": "M"}]
    found = columns.encode(rows)
    np.testing.assert_allclose(found[0], [20 / np.std([50, 70, 60]), 0, 0, 0, 1], rtol=1e-6)
    np.testing.assert_array_equal(found[1:], [[0, 0, 0, 1, 1], [0, 0, 1, 1, 0]])
    with pytest.raises(UserError, match=r"column 'age' has 'old' where the training data have numbers"):
        columns.encode([{"age": "old", "sex": "F"}])
    with pytest.raises(UserError, match=r"takes the columns age, sex, and these images have no sex"):
        columns.encode([{"age": "50"}])


def test_a_record_gives_the_same_columns_back(columns):
    assert Columns.of_record({module.COLUMNS: columns.to_record()}) == columns
    assert Columns.of_record({}) is None and module.width_of(None) == 0 and module.width_of(columns) == 5


def test_one_value_for_all_says_nothing_and_no_value_is_refused():
    rows = [{"site": 60.1, "empty": ""}] * 3
    one = Columns.fit(rows, ("site",), LABELS[:3])
    np.testing.assert_array_equal(one.encode([{"site": 60.1}, {"site": 99.0}]), np.zeros((2, 2)))
    with pytest.raises(UserError, match="no training image has a value of 'empty'"):
        Columns.fit(rows, ("empty",), LABELS[:3])


def test_a_column_that_decides_the_label_is_refused():
    labels = np.arange(30) % 3
    t = np.asarray([-0.5, -1.5, -3.0])[labels] + np.linspace(0, 0.4, 30)
    hospital = [f"hospital {k}" for k in labels]
    overlapping = t.copy()
    overlapping[0] = -1.2
    for values, leaks in ((t, True), (hospital, True), (overlapping, False), (labels % 2, False)):
        rows = [{"x": value} for value in values]
        if leaks:
            with pytest.raises(
                UserError, match="'x' tells the classes of the training split apart without one"
            ):
                Columns.fit(rows, ("x",), labels)
        else:
            Columns.fit(rows, ("x",), labels)
    # Of few images no mistake is no proof.
    Columns.fit([{"x": value} for value in t[:9]], ("x",), labels[:9])


@pytest.mark.parametrize("name", ["label", "patient_id", "T-Score", "Diagnosis", "bmd"])
def test_the_answer_is_no_column_by_its_name(name):
    with pytest.raises(UserError, match="is what is to be found out, or tells who it is"):
        module.check_no_answer(("age", name), "bmd")


def test_columns_that_are_not_there_are_told(tmp_path):
    dataset = PreparedDataset.open(clinical.write_dataset(tmp_path / "data"))
    assert dataset.columns == ("age", "sex", "t_score")
    with pytest.raises(UserError, match=r"has no column weight; it has age, sex, t_score"):
        module.check_columns(("age", "weight"), dataset, "model.covariates")
    with pytest.raises(UserError, match="names a column twice"):
        module.check_columns(("age", "age"), dataset, "model.covariates")
    source = dataset.source("train")
    found = beside(source, Columns.fit(source.identities(), ("age",), source.labels()), "t_score")
    assert found.beside[CLINICAL].shape == (48, 2) and found.beside[T_SCORE].shape == (48,)
    ages = np.asarray([example["age"] for example in source])
    np.testing.assert_array_equal(found.beside[CLINICAL][:, 1] == 1, np.isnan(ages))
    np.testing.assert_array_equal(found.labels(), source.labels())
    assert beside(source, None, "") is source
    with pytest.raises(UserError, match="the column 'sex' holds texts"):
        beside(source, None, "sex")
