"""A dataset of folds: each is tested in turn, on what the network has not seen."""

import csv
import json
import shutil

import numpy as np
import pytest
import small
from PIL import Image

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


@pytest.mark.slow
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


@pytest.fixture(scope="module")
def repeated(tmp_path_factory):
    """42 images, two a patient, dealt three times into three folds."""
    folder = tmp_path_factory.mktemp("repeated")
    lines = ["file,label,patient_id"]
    for n in range(42):
        pixels = np.random.default_rng(n).integers(0, 256, (40, 40), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{n}.png")
        lines.append(f"{n}.png,{small.CLASSES[n // 2 % 3]},p{n // 2}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    data = tmp_path_factory.mktemp("dealt") / "data"
    flags = [
        "denoise.name=none",
        "image_size=32",
        "workers=0",
        "audit.shortcuts=False",
        "audit.near_duplicates=False",
    ]
    flags += ["split.folds=3", "split.repeats=3"]
    assert run(["prep", f"--source={folder}", f"--out={data}", *(f"--config.{flag}" for flag in flags)]) == 0
    return data


def test_each_deal_tests_everybody_once_and_divides_nobody(repeated):
    dataset = PreparedDataset.open(repeated)
    assert (dataset.folds, dataset.repeats) == (3, 3)
    with (repeated / "manifest.csv").open(newline="") as table:
        rows = {row["id"].encode(): row for row in csv.DictReader(table)}
    partitions = set()
    for repeat in range(3):
        tested = []
        for fold in range(3):
            view = dataset.for_fold(fold, repeat)
            view.check_divides_nobody()
            parts = {split: ids(view, split) for split in ("train", "val", "test")}
            assert {split: len(found) for split, found in parts.items()} == view.splits
            column = folds.column(repeat)
            for split, of in folds.parts(fold, 3).items():
                assert {rows[one][column] for one in parts[split]} == set(of)
                labels = [small.CLASSES[label] for label in view.source(split).labels()]
                assert labels == [rows[one]["label"] for one in parts[split]]
            tested += parts["test"]
        assert len(tested) == len(set(tested)) == 42
        partitions.add(frozenset(frozenset(tested[i : i + 14]) for i in (0, 14, 28)))
    assert len(partitions) == 3
    for repeat in (3, -1):
        with pytest.raises(UserError, match="are dealt 3 time"):
            dataset.for_fold(0, repeat)


def test_deals_that_were_changed_are_refused(repeated, tmp_path):
    data = shutil.copytree(repeated, tmp_path / "data")
    text = (data / "manifest.csv").read_text().splitlines()
    header, first = text[0].split(","), text[1].split(",")
    place = header.index("repeat1")
    first[place] = "fold1" if first[place] == "fold0" else "fold0"
    (data / "manifest.csv").write_text("\n".join([text[0], ",".join(first), *text[2:]]) + "\n")
    dataset = PreparedDataset.open(data)
    assert dataset.for_fold(0).splits["test"] == 14
    with pytest.raises(UserError, match="is not the one that was written"):
        dataset.for_fold(0, 1)
    (data / "manifest.csv").unlink()
    with pytest.raises(UserError, match="is not the one that was written"):
        dataset.for_fold(0, 2)


def test_another_fold_may_validate_but_not_the_one_that_is_tested(dealt):
    dataset = PreparedDataset.open(dealt)
    view = dataset.for_fold(1, validates=3)
    assert (
        ids(view, "val") == ids(dataset, "fold3") and view.splits["train"] == SIZES["fold0"] + SIZES["fold2"]
    )
    for validates in (1, 4, -2):
        with pytest.raises(UserError, match="the test would choose"):
            dataset.for_fold(1, validates=validates)


@pytest.mark.slow
def test_runs_of_a_deal_are_evaluated_on_it_and_cached_prefixes_are_those_of_its_images(
    repeated, tmp_path, capsys
):
    found = {}
    for cached in (False, True):
        config = small.quick_config(repeated)
        config.update(epochs=1.0, preset="head", fold=1, repeat=2)
        config.train.update(cache_prefix=cached, cache_dir=str(tmp_path / "cache"))
        file = small.write_config(tmp_path / "config.py", config)
        work = tmp_path / f"run{cached}"
        assert run(["train", f"--config={file}", f"--workdir={work}"]) == 0
        found[cached] = [json.loads(line) for line in (work / "metrics.jsonl").read_text().splitlines()]
        assert run(["evaluate", f"--workdir={work}"]) == 0
    for one, other in zip(found[False], found[True], strict=True):
        assert other == pytest.approx(one, rel=1e-4)
    with (work / "eval" / "test" / "predictions.csv").open() as table:
        tested = {row["id"].encode() for row in csv.DictReader(table)}
    assert tested == set(ids(PreparedDataset.open(repeated).for_fold(1, 2), "test"))
    assert run(["train", f"--config={file}", f"--workdir={tmp_path / 'no'}", "--config.repeat=3"]) == 2
    assert run(["train", f"--config={file}", f"--workdir={tmp_path / 'no'}", "--config.eval.split=test"]) == 2
    err = capsys.readouterr().err
    assert "are dealt 3 time(s)" in err and "nor by what it is tested on" in err
