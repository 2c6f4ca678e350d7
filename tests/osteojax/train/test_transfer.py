"""Runs that start from the weights of a run: what is taken, what is refused, what is written down, what would leak."""

import csv
import dataclasses
import json
import shutil

import numpy as np
import pytest
import small
from manifests import change_manifest, datasets, write_manifest

from osteojax import storage
from osteojax.data.dataset import PreparedDataset
from osteojax.errors import UserError
from osteojax.models.build import build
from osteojax.models.network import Network
from osteojax.run.learned import read_learned
from osteojax.run.open import open_run
from osteojax.run.origin import told
from osteojax.train import transfer
from osteojax.train.experiment import read_experiment
from osteojax.train.loop import train


def still(data):
    """A config whose run changes nothing: what a run holds at its end is what it started with."""
    config = small.quick_config(data)
    config.update(init="imagenet", preset="head", epochs=1.0)
    config.optimizer.learning_rate = 0.0
    return config


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A run with moving averages on the first of two datasets."""
    folder = tmp_path_factory.mktemp("first")
    data, _ = datasets(folder)
    config = small.quick_config(data)
    config.seed = 5
    config.optimizer.ema_decay = 0.9
    train(config, folder / "run")
    return folder


@pytest.fixture
def place(first, tmp_path):
    """A copy of it all, to change."""
    shutil.copytree(first, tmp_path / "all")
    # The copy of the data is where the copy of the run has it.
    return tmp_path / "all"


def started(place, **changes):
    """A run on the second dataset from the first run's weights."""
    config = still(place / "second")
    config.weights = str(place / "run")
    config.transfer.update(changes)
    train(config, place / "next")
    return open_run(place / "next", "last")


def test_backbone_and_statistics_are_the_runs_averages_and_the_head_is_fresh(place):
    run, before = started(place), open_run(place / "run")
    config = still(place / "second")
    fresh, _ = Network(build(read_experiment(config).model, "tiny", 3, seed=config.seed)).init()
    for path, value in (run.params | run.batch_stats).items():
        wanted = fresh if path.startswith("head/fc/") else before.params | before.batch_stats
        np.testing.assert_array_equal(np.asarray(value), np.asarray(wanted[path]), err_msg=path)
    last = open_run(place / "run", "last")
    assert any((np.asarray(last.batch_stats[p]) != 0).any() for p in last.batch_stats if p.endswith("mean"))


def test_the_origin_says_where_the_weights_came_from_and_so_does_the_report(place):
    run, before = started(place), open_run(place / "run")
    origin = run.record["origin"]
    of = origin["weights"]
    assert (origin["init"], origin["architecture"]) == ("run", "tiny")
    assert of["source"] == str(place / "run") and of["step"] == before.step and of["seed"] == 5
    assert of["dataset_fingerprint"] == "generated-1" and of["origin"]["init"] == "random"
    arrays = {
        path: np.asarray(x)
        for path, x in (before.params | before.batch_stats).items()
        if not path.startswith("head/fc/")
    }
    assert of["sha256"] == transfer.digest(arrays)
    assert of["overlap"] == {"checked": True, "shared": {"patient_id": 0, "sha256": 0}, "allowed": False}
    assert json.loads((place / "next" / "run.json").read_text())[0]["origin"] == origin
    words = told(origin)
    assert str(place / "run") in words and of["sha256"][:12] in words and "MARKED" not in words


def test_the_digest_is_of_values_and_names():
    one = {"a": np.arange(3.0), "b": np.zeros(2)}
    assert transfer.digest(one) == transfer.digest(dict(reversed(one.items())))
    for other in (one | {"a": np.arange(3.0) + 1}, {"b": one["a"], "a": one["b"]}, {"a": one["a"]}):
        assert transfer.digest(other) != transfer.digest(one)


@pytest.mark.slow
def test_the_head_is_kept_where_that_is_asked_for(place):
    run, before = started(place, head="keep"), open_run(place / "run")
    for path in ("head/fc/kernel", "head/fc/bias"):
        np.testing.assert_array_equal(np.asarray(run.params[path]), np.asarray(before.params[path]))
    assert run.record["origin"]["weights"]["head"] == "keep"


@pytest.mark.slow
def test_one_checkpoint_can_be_named(place):
    config = still(place / "second")
    config.weights = str(place / "run" / "checkpoints" / "2")
    train(config, place / "next")
    run, before = open_run(place / "next"), open_run(place / "run", 2)
    assert run.record["origin"]["weights"]["step"] == 2
    path = "stage4/blocks/0/conv1/kernel"
    np.testing.assert_array_equal(np.asarray(run.params[path]), np.asarray(before.params[path]))


def test_resuming_needs_the_other_run_no_more(place):
    config = still(place / "second")
    config.weights = str(place / "run")
    train(config, place / "next")
    shutil.rmtree(place / "run")
    shutil.rmtree(place / "first")
    config.epochs = 2.0
    train(config, place / "next", force=True)
    run = open_run(place / "next", "last")
    assert run.step == 4 and run.record["origin"]["init"] == "run"


@pytest.mark.slow
def test_other_weights_for_a_started_run_are_refused(place):
    started(place)
    config = still(place / "second")
    config.weights = str(place / "run" / "checkpoints" / "2")
    with pytest.raises(UserError, match=r"weights: .*nothing can change that now"):
        train(config, place / "next", force=True)


def taken(place, **changes):
    """What a run on the second dataset would start with."""
    config = still(place / "second")
    config.transfer.update(changes)
    run = open_run(place / "run")
    return transfer.weights_of(run, "RUN", read_experiment(config), PreparedDataset.open(config.data.dir))


def refusal(place, *, record=None, **config):
    """What is said where the run or the config differs in this."""
    given = still(place / "second")
    given.weights = str(place / "run")
    for key, value in config.items():
        given.update_from_flattened_dict({key.replace("__", "."): value})
    run = open_run(place / "run")
    run = dataclasses.replace(run, record={**run.record, **(record or {})})
    with pytest.raises(UserError) as error:
        transfer.weights_of(run, "RUN", read_experiment(given), PreparedDataset.open(given.data.dir))
    return str(error.value)


def test_another_network_is_refused(first):
    assert "weights=RUN are of tiny, and model.name='resnet18'" in refusal(first, model__name="resnet18")


def test_another_number_of_channels_is_refused(first):
    said = refusal(first, record={"image_shape": [32, 32, 3]})
    assert "images of 3 channels" in said and "has 1" in said


def test_another_normalisation_of_the_input_is_refused(first):
    assert open_run(first / "run").record["input"]["mean"] == [0.485, 0.456, 0.406]
    said = refusal(first, record={"input": {"mean": [0.5] * 3, "std": [0.229, 0.224, 0.225]}})
    assert "normalised by {'mean': [0.5, 0.5, 0.5]" in said


def test_a_head_of_other_classes_or_another_kind_is_not_kept(first):
    said = refusal(first, record={"class_names": ["a", "b", "c"]}, transfer__head="keep")
    assert "tell a, b, c apart" in said and "transfer.head=reset" in said
    said = refusal(first, model__head="coral", transfer__head="keep")
    assert "is 'softmax', and model.head='coral'" in said


@pytest.mark.slow
def test_a_head_of_another_kind_is_no_matter_where_it_is_fresh(place):
    config = still(place / "second")
    config.weights = str(place / "run")
    config.model.head = "corn"
    train(config, place / "next")
    assert open_run(place / "next").params["head/fc/bias"].shape == (2,)


def test_keys_about_a_run_are_refused_where_the_weights_are_none(quick, tmp_path):
    quick.transfer.head = "keep"
    with pytest.raises(UserError, match=r"transfer\.\* is about weights that are a run"):
        train(quick, tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_folder_that_is_no_run_is_told(quick, tmp_path):
    quick.update(init="imagenet", weights=str(tmp_path))
    with pytest.raises(UserError, match="no checkpoints in"):
        train(quick, tmp_path / "run")


# --- leaks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize(("key", "judged"), [("patient_id", "test"), ("sha256", "val"), ("sha256", "test")])
def test_what_the_weights_learned_from_may_not_be_what_the_run_is_judged_by(place, key, judged, split):
    # learned.csv of the run is what counts: its dataset need not be there.
    shutil.rmtree(place / "first")
    rows = read_learned(open_run(place / "run"))
    assert len(rows) == 22
    shared = rows[0 if split == "train" else -1][key]
    change_manifest(place / "second", judged, **{key: shared})
    with pytest.raises(UserError, match="would measure memory"):
        taken(place)
    overlap = taken(place, allow_overlap=True).provenance["overlap"]
    assert overlap["allowed"] is True and overlap["shared"][key] == 1


def test_a_run_that_was_allowed_to_share_something_is_marked(place):
    rows = read_learned(open_run(place / "run"))
    change_manifest(place / "second", "test", patient_id=rows[0]["patient_id"])
    with pytest.raises(UserError, match="1 patients"):
        started(place)
    assert not (place / "next" / "config.json").exists()
    run = started(place, allow_overlap=True)
    assert "MARKED: those learned from 1 patients and 0 images" in told(run.record["origin"])


def test_what_both_train_on_or_what_was_only_tested_before_is_no_leak(place):
    with (place / "first" / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    tested = next(row for row in rows if row["split"] == "test")
    trained = next(row for row in rows if row["split"] == "train")
    change_manifest(place / "second", "test", sha256=tested["sha256"], patient_id=tested["patient_id"])
    change_manifest(place / "second", "train", sha256=trained["sha256"], patient_id=trained["patient_id"])
    assert taken(place).provenance["overlap"]["shared"] == {"patient_id": 0, "sha256": 0}


def test_the_dataset_at_hand_tells_what_an_earlier_release_did_not_write(place):
    (place / "run" / "learned.csv").unlink()
    run = open_run(place / "run")
    run.config.data.dir = str(place / "first")
    assert len(read_learned(run)) == 22
    (place / "first" / "manifest.csv").unlink()
    assert read_learned(run) is None


def test_what_cannot_be_checked_is_said(place, caplog):
    (place / "second" / "manifest.csv").unlink()
    provenance = taken(place).provenance
    assert provenance["overlap"] == {"checked": False} and "NOT checked" in caplog.text
    assert "was not checked" in told({"architecture": "tiny", "init": "run", "weights": provenance})


def test_what_a_run_started_from_counts_for_the_run_that_starts_from_it(place):
    learned = read_learned(started(place))
    assert len(learned) == 22 + 22
    third = small.write_dataset(place / "third", {"train": 16, "val": 6, "test": 6}, seed=3)
    write_manifest(third, 3)
    change_manifest(third, "test", patient_id=read_learned(open_run(place / "run"))[0]["patient_id"])
    config = still(third)
    config.weights = str(place / "next")
    with pytest.raises(UserError, match="1 patients"):
        train(config, place / "last")


@pytest.mark.slow
def test_weights_on_a_store_are_taken_from_there(place, tmp_path, monkeypatch):
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    monkeypatch.setenv("OSTEOJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(storage, "_spec", lambda *_: {"driver": "file", "path": f"{bucket}/"})
    storage.publish(place / "run", storage.Store("gs://bucket/run"))
    config = still(place / "second")
    config.weights = "gs://bucket/run/checkpoints/2"
    train(config, place / "next")
    run = open_run(place / "next")
    assert run.record["origin"]["weights"]["source"] == config.weights
    wanted = open_run(place / "run", 2).params["stem/conv/kernel"]
    np.testing.assert_array_equal(np.asarray(run.params["stem/conv/kernel"]), np.asarray(wanted))
