"""Runs that take a patient's columns and learn a T-score: started, resumed, cached, evaluated, asked, refused."""

import csv
import json
import shutil

import clinical
import numpy as np
import pytest
from PIL import Image
from scipy.stats import norm

from data_prep.preprocess import preprocess_file
from osteojax import config as configs
from osteojax.data import columns as columns_module
from osteojax.data.dataset import PreparedDataset
from osteojax.errors import UserError
from osteojax.evaluate.evaluate import evaluate_run
from osteojax.export.export import export_run
from osteojax.predict.answer import write_predictions
from osteojax.predict.files import Images
from osteojax.predict.predict import Predictor
from osteojax.report.report import gather, write_report
from osteojax.run.fitted import fitted
from osteojax.run.open import open_run
from osteojax.train.experiment import opened
from osteojax.train.loop import train
from osteojax.train.probe import probe
from tests.osteojax.train.test_loop import assert_close, assert_same_bits, metrics_of, saved

HYBRID = {"covariates": ("age", "sex"), "t_score": "t_score"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return clinical.write_dataset(tmp_path_factory.mktemp("clinical") / "data")


@pytest.fixture(scope="module")
def hybrid(data, tmp_path_factory):
    """A finished run of twelve steps, checkpointed every three."""
    config = clinical.quick_config(data, **HYBRID)
    config.checkpoint.keep = 10
    workdir = tmp_path_factory.mktemp("hybrid") / "run"
    train(config, workdir)
    return config, workdir


@pytest.fixture(scope="module")
def evaluated(hybrid):
    return evaluate_run(hybrid[1])


def test_the_columns_go_with_the_checkpoint_and_are_those_of_the_training_split(hybrid, data):
    run = open_run(hybrid[1])
    ages = np.asarray([example["age"] for example in PreparedDataset.open(data).source("train")])
    age, sex = run.columns.columns
    assert age.mean == pytest.approx(np.nanmean(ages)) and age.missing == np.isnan(ages).sum() > 0
    assert age.deviation == pytest.approx(np.nanstd(ages)) and sex.categories == ("F", "M")
    assert [of["name"] for of in run.record["columns"]] == ["age", "sex"]


def test_the_branch_learns_and_a_missing_value_changes_the_answer(hybrid):
    first, last = saved(hybrid[1], 3, ("params",)), saved(hybrid[1], 12, ("params",))
    moved = {name for name in first if (first[name] != last[name]).any()}
    assert {
        f"['params']['head/fc/{name}/kernel']" for name in ("first", "second", "last/last", "last/t_score")
    } <= moved
    run = open_run(hybrid[1])
    source = run.dataset().source("test")
    rows = source.identities()
    asked = columns_module.beside(source, run.columns, "").beside
    np.testing.assert_array_equal(asked["clinical"], run.columns.encode(rows))

    class Without(columns_module.Beside):
        def identities(self):
            return [row | {"age": float("nan")} for row in rows]

    logits, missing = run.logits(source), run.logits(Without(source, {}))
    knew = np.asarray([not np.isnan(row["age"]) for row in rows])
    assert (logits != missing)[knew].any(-1).all()
    np.testing.assert_array_equal(logits[~knew], missing[~knew])


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(hybrid, tmp_path, monkeypatch):
    config, reference = hybrid
    shutil.copytree(reference, tmp_path / "run")
    for step in (9, 12):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / str(step))
    # The statistics are the checkpoint's: nothing is fitted anew.
    monkeypatch.setattr(columns_module.Columns, "fit", None)
    assert train(config, tmp_path / "run") == 6
    assert_same_bits(saved(tmp_path / "run"), saved(reference))
    assert metrics_of(tmp_path / "run") == metrics_of(reference)


@pytest.mark.slow
def test_from_the_cached_prefix_and_on_two_devices_it_learns_the_same(hybrid, tmp_path, monkeypatch):
    monkeypatch.setenv("OSTEOJAX_CACHE", str(tmp_path / "cache"))
    config = configs.from_json(configs.to_json(hybrid[0]))
    config.train.cache_prefix = True
    config.mesh.data = 2
    config.data.hold = "device"
    config.train.steps_per_call = 2
    train(config, tmp_path / "run")
    assert_close(saved(tmp_path / "run", items=("params",)), saved(hybrid[1], items=("params",)), 2e-3)


def test_metrics_have_the_t_scores_error_beside_the_classes(hybrid, evaluated):
    run = open_run(hybrid[1])
    source = run.dataset().source("test")
    measured = np.asarray([example["t_score"] for example in source])
    _, predicted = run.answers(source)
    error = np.abs(predicted - measured)
    found = evaluated["t_score"]
    assert found["n"] == np.isfinite(measured).sum() < len(measured)
    assert found["mae"]["value"] == pytest.approx(np.nanmean(error))
    assert found["mae"]["ci95"][0] < found["mae"]["value"] < found["mae"]["ci95"][1]
    rows = list(csv.DictReader((hybrid[1] / "eval" / "test" / "predictions.csv").open()))
    np.testing.assert_allclose([float(row["t_score"]) for row in rows], predicted, atol=1e-4)
    lines = [json.loads(line) for line in metrics_of(hybrid[1]).splitlines()]
    assert {"train/t_score_mae", "val/t_score_mae"} <= {key for line in lines for key in line}
    final = next(line["val/t_score_mae"] for line in reversed(lines) if "val/t_score_mae" in line)
    validation = open_run(hybrid[1], "last")
    split = validation.dataset().source("val")
    error = validation.answers(split)[1] - [example["t_score"] for example in split]
    assert final == pytest.approx(np.nanmean(np.abs(error)), rel=1e-4)


def test_the_report_shows_the_columns(hybrid, evaluated, tmp_path):
    write_report(gather(hybrid[1]), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    age = open_run(hybrid[1]).columns.columns[0]
    assert f"mean {age.mean:.4g}, standard deviation {age.deviation:.4g}" in page and "F, M" in page
    assert "No maps: the network takes columns" in page
    assert f"{evaluated['t_score']['mae']['value']:.3f}" in page


@pytest.fixture
def films(tmp_path):
    """Three files, and a table of two of them."""
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        Image.fromarray(rng.integers(0, 255, (64, 64), np.uint8)).save(tmp_path / f"{name}.png")
    table = tmp_path / "known.csv"
    table.write_text("file,age,sex\na.png,75,F\nb.png,,M\n")
    return [tmp_path / f"{name}.png" for name in "abc"], table


def test_files_are_answered_with_their_row_of_the_table(hybrid, films, tmp_path):
    files, table = films
    run = open_run(hybrid[1])
    predictor = Predictor([run], covariates=table)
    answers = predictor.predict(files)
    images = np.stack([preprocess_file(file, predictor.spec) for file in files])
    rows = [{"age": "75", "sex": "F"}, {"age": "", "sex": "M"}, {"age": "", "sex": ""}]
    logits, t_scores = run.answers(Images(images, rows))
    logits = logits / fitted(run).temperature
    p = np.exp(logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True))
    np.testing.assert_allclose([list(a.probabilities.values()) for a in answers], p, atol=1e-5)
    np.testing.assert_allclose([a.t_score for a in answers], t_scores, atol=1e-5)
    write_predictions(tmp_path / "out.csv", answers, run.class_names)
    written = list(csv.DictReader((tmp_path / "out.csv").open()))
    np.testing.assert_allclose([float(row["t_score"]) for row in written], t_scores, atol=1e-4)
    with pytest.raises(UserError, match="maps of an image do not show"):
        predictor.explain(answers, tmp_path / "maps")


@pytest.mark.parametrize(
    "text, message",
    [
        (None, r"takes age, sex beside the image; give --covariates=CSV with the columns file, age, sex"),
        ("file,age,weight\na.png,1,2\n", r"has the unknown column 'weight'; its columns are file and"),
        ("age,sex\n50,F\n", "has no column file"),
        ("file,age\na.png,old\n", r"line 2: column 'age' has 'old' where the training data have numbers"),
        ("file,age\na.png,50\n./a.png,51\n", r"line 3: ./a.png has a row already"),
    ],
)
def test_a_table_that_does_not_fit_is_one_sentence(hybrid, films, text, message):
    _, table = films
    if text is not None:
        table.write_text(text)
    with pytest.raises(UserError, match=message):
        Predictor([open_run(hybrid[1])], covariates=None if text is None else table)


def test_it_is_not_exported(hybrid, tmp_path):
    with pytest.raises(
        UserError, match=r"takes the columns age, sex beside the image, and an exported network"
    ):
        export_run(hybrid[1], tmp_path / "out")


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"model.covariates": ("age", "weight")},
            "model.covariates: .* has no column weight; it has age, sex",
        ),
        ({"model.covariates": ("t_score",)}, "'t_score' is what is to be found out"),
        ({"model.t_score": "bmd"}, "model.t_score: .* has no column bmd"),
        ({"model.covariates": ("age",), "mix.mixup": 0.2}, "half an age or a T-score belongs to neither"),
        ({"model.head": "t_score"}, "reads the class from a T-score; name its column"),
        (
            {"model.head": "t_score", "model.t_score": "t_score", "loss.class_weights": "balanced"},
            "learns the T-score and no class",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_written(data, changes, message):
    config = clinical.quick_config(data)
    for key, value in changes.items():
        configs.set_value(config, key, value)
    with pytest.raises(UserError, match=message):
        opened(config)


def test_other_columns_are_another_run_and_a_probe_takes_none(hybrid, data, tmp_path):
    changed = clinical.quick_config(data, covariates=("age",), t_score="t_score")
    with pytest.raises(UserError, match=r"parameters came from another start \(model\.covariates"):
        train(changed, hybrid[1], force=True)
    config = clinical.quick_config(data, covariates=("age",))
    config.preset = "head"
    with pytest.raises(UserError, match="a probe is logistic regression on an image's features alone"):
        probe(config, tmp_path / "probe")
    config = clinical.quick_config(data, t_score="sex")
    with pytest.raises(UserError, match="the column 'sex' holds texts"):
        train(config, tmp_path / "texts")
    assert not (tmp_path / "texts" / "config.json").exists()


def test_the_class_is_read_from_a_t_score_that_is_learned_alone(data, tmp_path):
    config = clinical.quick_config(data, head="t_score", t_score="t_score", covariates=("age", "sex"))
    config.update(epochs=8.0, preset="head")
    config.optimizer.learning_rate = 0.1
    train(config, tmp_path / "run")
    run = open_run(tmp_path / "run", "last")
    logits, t = run.answers(run.dataset().source("train"))
    sigma = float(np.exp(run.params["head/fc/last/log_sigma"]))
    above = norm.sf(np.asarray([-1.0, -2.5]), t[:, None], sigma)
    expected = np.stack([above[:, 0], above[:, 1] - above[:, 0], 1 - above[:, 1]], -1)
    np.testing.assert_allclose(np.exp(logits), expected, atol=1e-5)
    measured = np.asarray([example["t_score"] for example in run.dataset().source("train")])
    guess = np.nanmean(np.abs(measured - np.nanmedian(measured)))
    assert np.nanmean(np.abs(t - measured)) < 0.8 * guess
