"""Folds pooled, against scikit-learn on all predictions at once; repetitions averaged."""

import json

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from osteojax.cli.main import run
from osteojax.errors import UserError
from osteojax.evaluate.pool import averaged, pool_runs
from osteojax.metrics.score import score_predictions
from osteojax.run.predictions import write_predictions

NAMES = ["healthy", "osteopenia", "osteoporosis"]


def write_fold(workdir, fingerprint, labels, logits, ids):
    examples = [{"id": f"i{i}", "patient_id": f"p{i // 2}", "label": labels[i]} for i in ids]
    folder = workdir / "eval" / "test"
    write_predictions(folder / "predictions.csv", examples, logits[ids], NAMES)
    (folder / "metrics.json").write_text(json.dumps({"dataset_fingerprint": fingerprint}))
    return workdir


@pytest.fixture
def repeated(tmp_path):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 60)
    runs, logits = [], {}
    for name in ("first", "second"):
        logits[name] = np.eye(3)[labels] + rng.normal(size=(60, 3))
        for fold in range(3):
            ids = [i for i in range(60) if (i // 2) % 3 == fold]
            runs.append(write_fold(tmp_path / f"{name}{fold}", name, labels, logits[name], ids))
    return tmp_path, runs, labels, logits


def test_each_image_counts_once_and_the_interval_is_that_of_all(repeated):
    _, runs, labels, logits = repeated
    found = pool_runs(runs[:3])
    assert (found["n"], found["patients"], found["repetitions"], found["folds"]) == (60, 30, 1, [3])
    expected = balanced_accuracy_score(labels, logits["first"].argmax(-1))
    assert found["balanced_accuracy"]["value"] == pytest.approx(expected)
    at_once = score_predictions(logits["first"], labels, [f"p{i // 2}" for i in range(60)], NAMES)
    assert found["accuracy"]["value"] == pytest.approx(at_once["accuracy"]["value"])
    assert found["accuracy"]["ci95"] == pytest.approx(at_once["accuracy"]["ci95"])


def test_repetitions_are_averaged_and_not_counted_as_more_patients(repeated):
    _, runs, _, _ = repeated
    first, second, both = pool_runs(runs[:3]), pool_runs(runs[3:]), pool_runs(runs)
    assert (both["repetitions"], both["folds"], both["n"]) == (2, [3, 3], 60)
    for name in ("accuracy", "macro_f1", "auc_ovr_macro"):
        for pick in (lambda e: e["value"], lambda e: e["ci95"][0], lambda e: e["ci95"][1]):
            assert pick(both[name]) == pytest.approx((pick(first[name]) + pick(second[name])) / 2)
    width = np.diff(both["accuracy"]["ci95"])
    assert width > 0.9 * min(np.diff(first["accuracy"]["ci95"]), np.diff(second["accuracy"]["ci95"]))


def test_what_is_undefined_once_is_undefined():
    one = {"a": {"value": 1.0, "ci95": [0.5, None]}, "n": 3, "m": [[1, 2]]}
    other = {"a": {"value": None, "ci95": [0.1, 0.2]}, "n": 3, "m": [[3, 4]]}
    assert averaged([one, other]) == {"a": {"value": None, "ci95": [0.3, None]}, "n": 3, "m": [[2.0, 3.0]]}


def test_a_fold_twice_other_images_and_no_evaluation_are_refused(repeated):
    folder, runs, _, _ = repeated
    with pytest.raises(UserError, match="image i0 is tested by"):
        pool_runs([runs[0], runs[1], runs[0]])
    with pytest.raises(UserError, match="40 are common to 60 and 40"):
        pool_runs(runs[:5])
    with pytest.raises(UserError, match="was not evaluated"):
        pool_runs([folder])


def test_the_command(repeated, capsys):
    folder, runs, _, _ = repeated
    assert run(["pool", *map(str, runs), f"--out={folder}/pooled.json"]) == 0
    assert "60 images, 30 patients, 2 repetitions of 3, 3 folds" in capsys.readouterr().out
    assert json.loads((folder / "pooled.json").read_text())["repetitions"] == 2


def test_deals_of_one_dataset_are_repetitions(repeated):
    """Two deals of one dataset: folds of unequal deals are never put together, nor taken for seeds."""
    _, runs, _, _ = repeated
    for number, place in enumerate(runs):
        path = place / "eval" / "test" / "metrics.json"
        path.write_text(json.dumps({"dataset_fingerprint": "one"}))
        (place / "config.json").write_text(json.dumps({"seed": 0, "fold": number % 3, "repeat": number // 3}))
    both = pool_runs(runs)
    assert (both["repetitions"], both["folds"], both["n"]) == (2, [3, 3], 60)
    assert [(one["repeat"], one["fold"]) for one in both["runs"]] == [
        (r, f) for r in (0, 1) for f in range(3)
    ]
