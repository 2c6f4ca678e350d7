"""A dataset of folds: each is tested in turn, on what the network has not seen."""

import csv
import json

import pytest
import small

from osteojax import folds
from osteojax.cli.main import run
from osteojax.data.dataset import PreparedDataset
from osteojax.errors import UserError

SIZES = {"fold0": 8, "fold1": 6, "fold2": 9, "fold3": 7}


@pytest.fixture(scope="module")
def dealt(tmp_path_factory):
    return small.write_dataset(tmp_path_factory.mktemp("dealt") / "data", SIZES, seed=1)


def ids(dataset, split):
    return [bytes(example["id"]) for example in dataset.source(split)]


def test_names():
    assert folds.fold_count(["fold1", "fold0", "fold2"]) == 3
    assert folds.fold_count(["fold1", "fold2", "fold3"]) == folds.fold_count(["train", "fold0"]) == 0
    assert folds.fold_count([]) == 0


def test_each_example_is_tested_once_validated_once_and_else_learned_from(dealt):
    dataset = PreparedDataset.open(dealt)
    assert dataset.folds == 4 and dataset.splits == SIZES
    everything = {name: ids(dataset, name) for name in SIZES}
    tested, validated = [], []
    for fold in range(4):
        view = dataset.for_fold(fold)
        parts = {split: ids(view, split) for split in ("train", "val", "test")}
        assert {split: len(found) for split, found in parts.items()} == view.splits
        assert parts["test"] == everything[f"fold{fold}"]
        assert parts["val"] == everything[f"fold{(fold + 1) % 4}"]
        together = [x for part in parts.values() for x in part]
        assert len(together) == len(set(together)) == 30
        tested += parts["test"]
        validated += parts["val"]
    assert len(set(tested)) == len(set(validated)) == 30 == len(tested)


def test_a_fold_that_there_is_not_or_that_must_be_chosen(dealt, prepared):
    dataset = PreparedDataset.open(dealt)
    for fold in (4, -1, -2):
        with pytest.raises(UserError, match=r"4 folds; say which is tested with --config\.fold=0 to 3"):
            dataset.for_fold(fold)
    plain = PreparedDataset.open(prepared)
    assert plain.for_fold(folds.NONE) is plain
    with pytest.raises(UserError, match=r"not dealt into folds; prepare it with --config\.split\.folds=5"):
        plain.for_fold(0)


def test_a_run_of_a_fold_is_evaluated_on_that_fold(dealt, tmp_path, capsys):
    config = small.quick_config(dealt)
    config.epochs = 1.0
    file = small.write_config(tmp_path / "config.py", config)
    command = ["train", f"--config={file}", f"--workdir={tmp_path / 'run'}"]
    assert run(command) == 2 and "say which is tested" in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.json").exists()
    assert run([*command, "--config.fold=2"]) == 0
    assert run(["evaluate", f"--workdir={tmp_path / 'run'}"]) == 0
    metrics = json.loads((tmp_path / "run" / "eval" / "test" / "metrics.json").read_text())
    assert metrics["n"] == SIZES["fold2"]
    with (tmp_path / "run" / "eval" / "test" / "predictions.csv").open() as table:
        patients = {row["patient_id"] for row in csv.DictReader(table)}
    assert patients == {
        example["patient_id"].decode() for example in PreparedDataset.open(dealt).source("fold2")
    }


def test_another_dataset_of_folds_is_evaluated_fold_by_fold(dealt, prepared, quick, tmp_path, capsys):
    quick.epochs = 1.0
    file = small.write_config(tmp_path / "config.py", quick)
    assert run(["train", f"--config={file}", f"--workdir={tmp_path / 'run'}"]) == 0
    command = ["evaluate", f"--workdir={tmp_path / 'run'}", f"--data_dir={dealt}"]
    assert run([*command, "--split=fold1"]) == 0
    assert run(command) == 2 and "it has fold0 (8), fold1 (6)" in capsys.readouterr().err


def test_a_sweep_over_a_dataset_of_another_number_of_folds_is_refused(dealt, tmp_path, capsys):
    command = ["sweep", "--sweep=configs/sweeps/freeze_depth.py", f"--out={tmp_path}", f"--data_dir={dealt}"]
    assert run([*command, "--folds=5"]) == 2
    assert "has 4 folds, the sweep 5: say --folds=4" in capsys.readouterr().err
    assert run([*command, "--folds=4", "--status"]) == 0
    # How the runs stand can be asked where the data are not.
    assert run([*command[:-1], f"--data_dir={tmp_path / 'elsewhere'}", "--folds=4", "--status"]) == 0
