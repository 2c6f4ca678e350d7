"""Evaluation from the workdir alone: every example once, the same whatever the batch, and nothing quietly different."""

import csv
import json
import shutil

import jax
import numpy as np
import pytest
import small
from scipy.special import softmax
from sklearn.metrics import accuracy_score, confusion_matrix

from osteojax.calibration.temperature import fit_temperature
from osteojax.cli.main import run
from osteojax.data.dataset import PreparedDataset
from osteojax.errors import UserError
from osteojax.evaluate.evaluate import evaluate_run
from osteojax.models.build import build
from osteojax.models.network import Network
from osteojax.predict.files import Images
from osteojax.run import open as opening
from osteojax.run.checkpoint import Checkpoints
from osteojax.train.experiment import read_experiment
from osteojax.train.loop import train


@pytest.fixture(scope="module")
def workdir(prepared, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("evaluated")
    train(small.quick_config(prepared), workdir)
    evaluate_run(workdir)
    return workdir


def rows_of(workdir, split="test"):
    with (workdir / "eval" / split / "predictions.csv").open() as file:
        return list(csv.DictReader(file))


def test_metrics_json_keeps_its_contract(workdir, prepared):
    evaluate_run(workdir)
    metrics = json.loads((workdir / "eval" / "test" / "metrics.json").read_text())
    scalars = {
        "accuracy",
        "balanced_accuracy",
        "macro_f1",
        "quadratic_weighted_kappa",
        "auc_ovr_macro",
        "brier",
        "ece",
    }
    assert scalars <= metrics.keys()
    for name in scalars:
        assert set(metrics[name]) == {"value", "ci95"} and len(metrics[name]["ci95"]) == 2
    assert (
        list(metrics["per_class"])
        == list(metrics["auc_ovr"])
        == list(metrics["pr_auc"])
        == list(small.CLASSES)
    )
    assert set(metrics["per_class"]["healthy"]) == {
        "precision",
        "recall",
        "f1",
        "specificity",
        "support",
    }
    assert metrics["dataset_fingerprint"] == PreparedDataset.open(prepared).fingerprint
    assert metrics["checkpoint_step"] in (3, 6) and len(metrics["config_hash"]) == 64
    assert {path.name for path in (workdir / "eval" / "test").iterdir()} == {
        "metrics.json", "predictions.csv", "curves.json", "confusion.png", "roc.png"
    }  # fmt: skip


def test_every_example_is_counted_once_and_as_scikit_learn_counts(workdir, prepared):
    metrics = evaluate_run(workdir)
    rows = rows_of(workdir)
    source = PreparedDataset.open(prepared).source("test")
    assert [row["id"] for row in rows] == [example["id"].decode() for example in source]
    assert metrics["n"] == len(rows) == 11
    truth, guess = [row["label"] for row in rows], [row["predicted"] for row in rows]
    assert metrics["accuracy"]["value"] == accuracy_score(truth, guess)
    assert metrics["confusion_matrix"] == confusion_matrix(truth, guess, labels=list(small.CLASSES)).tolist()
    assert all(abs(sum(float(row[f"p_{name}"]) for name in small.CLASSES) - 1) < 1e-5 for row in rows)


@pytest.mark.parametrize("devices, batch_size", [(1, 1), (1, 64), (8, 3)])
def test_batch_size_and_devices_do_not_matter(workdir, monkeypatch, tmp_path, devices, batch_size):
    monkeypatch.setattr(opening, "make_mesh", lambda: small_mesh(devices))
    monkeypatch.setattr(opening.configs, "from_json", with_batch_size(opening.configs.from_json, batch_size))
    expected = rows_of(workdir)
    found = tmp_path / "run"
    shutil.copytree(workdir, found)
    evaluate_run(found)
    for a, b in zip(rows_of(found), expected, strict=True):
        assert a["id"] == b["id"]
        for name in small.CLASSES:
            assert float(a[f"p_{name}"]) == pytest.approx(float(b[f"p_{name}"]), abs=2e-6)


def small_mesh(devices):
    from osteojax.devices.mesh import make_mesh

    return make_mesh(devices=jax.devices()[:devices])


def with_batch_size(original, batch_size):
    def load(text):
        config = original(text)
        config.eval.batch_size = batch_size
        return config

    return load


def test_a_dataset_prepared_otherwise_is_refused(workdir, prepared, tmp_path):
    other = tmp_path / "data"
    shutil.copytree(prepared, other)
    metadata = json.loads((other / "metadata.json").read_text())
    metadata["preprocessing"]["aspect"] = "letterbox"
    (other / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(UserError, match=r"prepared otherwise.*aspect: 'squash' -> 'letterbox'"):
        evaluate_run(workdir, data_dir=str(other))


def test_another_dataset_prepared_alike_is_evaluated_with_a_warning(workdir, tmp_path, caplog):
    other = small.write_dataset(tmp_path / "data", {"test": 5}, seed=2)
    assert evaluate_run(workdir, data_dir=str(other))["n"] == 5
    assert "no patient is in both" in caplog.text


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--split=holdout"], "no examples in split 'holdout'"),
        (["--step=5"], "no checkpoint '5'"),
        (["--data_dir=/nowhere"], "no prepared dataset in /nowhere"),
    ],
)
def test_users_errors_are_one_line(workdir, capsys, flags, message):
    assert run(["evaluate", f"--workdir={workdir}", *flags]) == 2
    printed = capsys.readouterr().err.strip()
    assert message in printed.splitlines()[-1] and "Traceback" not in printed


def test_a_workdir_without_a_run_is_a_clear_error(tmp_path, capsys):
    assert run(["evaluate", f"--workdir={tmp_path}"]) == 2
    assert "no checkpoints in" in capsys.readouterr().err


def test_the_table_is_printed(workdir, capsys):
    assert run(["evaluate", f"--workdir={workdir}", "--step=last"]) == 0
    printed = capsys.readouterr().out
    assert all(
        word in printed for word in ("precision", "recall", "F1", "support", "osteopenia", "accuracy:")
    )


@pytest.mark.slow
def test_the_average_is_what_is_evaluated_where_one_is_kept(prepared, tmp_path):
    config = small.quick_config(prepared)
    config.epochs = 1.0
    config.optimizer.update(ema_decay=0.99, learning_rate=1e-2)
    train(config, tmp_path)
    evaluate_run(tmp_path)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    network = Network(build(read_experiment(config).model, "tiny", 3, seed=0))
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = dict(zip(("ema", "ema_batch_stats"), network.init(), strict=True))
    like |= dict(zip(("params", "batch_stats"), network.init(), strict=True))
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), like)
    arrays = checkpoints.restore(3, like, checkpoints.record(3))
    checkpoints.close()
    images = np.stack([example["image"] for example in PreparedDataset.open(prepared).source("test")])
    found = [[float(row[f"p_{name}"]) for name in small.CLASSES] for row in rows_of(tmp_path)]

    def probabilities(params, stats):
        return softmax(np.asarray(network.eval_function()(arrays[params], arrays[stats], images)), axis=-1)

    np.testing.assert_allclose(found, probabilities("ema", "ema_batch_stats"), atol=1e-5)
    for other in (("params", "batch_stats"), ("ema", "batch_stats"), ("params", "ema_batch_stats")):
        assert not np.allclose(found, probabilities(*other), atol=1e-4), other


def test_another_step_does_not_overwrite_the_best_ones_result(workdir, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(workdir, copy)
    evaluate_run(copy)
    kept = (copy / "eval/test/metrics.json").read_bytes()
    steps = sorted(int(p.name) for p in (copy / "checkpoints").iterdir() if p.name.isdigit())
    best = json.loads(kept)["checkpoint_step"]
    other = next(step for step in steps if step != best)
    assert evaluate_run(copy, step=str(other))["checkpoint_step"] == other
    assert (copy / "eval/test/metrics.json").read_bytes() == kept
    assert json.loads((copy / f"eval/test@step-{other}/metrics.json").read_text())["checkpoint_step"] == other


def test_a_damaged_checkpoint_that_is_not_the_best_does_not_matter(workdir, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(workdir, copy)
    best = evaluate_run(copy)["checkpoint_step"]
    other = next(p for p in (copy / "checkpoints").iterdir() if p.name.isdigit() and int(p.name) != best)
    for file in (other / "record").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    assert evaluate_run(copy)["checkpoint_step"] == best


@pytest.fixture(scope="module")
def other(prepared, tmp_path_factory):
    """A run of another seed."""
    config = small.quick_config(prepared)
    config.seed = 1
    workdir = tmp_path_factory.mktemp("other")
    train(config, workdir)
    return workdir


@pytest.mark.parametrize("tta", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_ensemble_is_the_mean_with_a_temperature_of_its_own(workdir, other, tmp_path, tta):
    flags = [
        "evaluate",
        f"--workdir={workdir}",
        f"--workdir={other}",
        f"--out={tmp_path}/both",
        *["--tta"] * tta,
    ]
    assert run(flags) == 0
    metrics = json.loads((tmp_path / "both" / "metrics.json").read_text())
    runs = [opening.open_run(place) for place in (workdir, other)]

    def mean(split):
        """(N, C) probabilities."""
        images = np.stack([example["image"] for example in runs[0].dataset().source(split)])
        views = [images, images[:, :, ::-1]] if tta else [images]
        said = [softmax(one.logits(Images(view)).astype(np.float64), -1) for one in runs for view in views]
        return np.mean(said, axis=0)

    with (tmp_path / "both" / "predictions.csv").open() as file:
        rows = [[float(row[f"p_{name}"]) for name in small.CLASSES] for row in csv.DictReader(file)]
    np.testing.assert_allclose(rows, mean("test"), atol=1e-5)
    labels = np.asarray([example["label"] for example in runs[0].dataset().source("val")])
    expected = fit_temperature(np.log(mean("val")), labels)
    assert metrics["calibration"]["temperature"] == pytest.approx(expected, rel=1e-2)
    assert metrics["conformal"]["validation_images"] == len(labels) and metrics["without_sets"] is None
    assert [one["workdir"] for one in metrics["ensemble"]] == [str(workdir), str(other)]
    assert metrics["tta"] is tta


def test_an_ensemble_of_folds_is_refused_and_one_needs_a_folder(
    workdir, other, tmp_path, monkeypatch, capsys
):
    assert run(["evaluate", f"--workdir={workdir}", f"--workdir={other}"]) == 2
    assert "give --out" in capsys.readouterr().err
    original = opening.open_run

    def fold(place, step):
        found = original(place, step)
        found.config.fold = 1 if place == other else -1
        return found

    monkeypatch.setattr("osteojax.evaluate.evaluate.open_run", fold)
    with pytest.raises(
        UserError, match="are different folds: what one is tested on, the others learned from"
    ):
        evaluate_run(workdir, others=[other], out=tmp_path)
