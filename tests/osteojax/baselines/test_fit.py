"""`osteojax baselines`: each row is tested on images that it learned nothing from."""

import csv
import dataclasses
import json

import numpy as np
import pytest
import small
from scipy import stats
from sklearn.linear_model import LogisticRegression

from data_prep.shards import Example
from osteojax import config as configs
from osteojax import leaky
from osteojax.baselines import fit
from osteojax.baselines.classifiers.registry import CLASSIFIERS
from osteojax.baselines.sources.registry import table, together
from osteojax.cli.main import run
from osteojax.data.dataset import PreparedDataset
from osteojax.errors import UserError
from osteojax.run.predictions import read_predictions

FOLDS = 3


def examples_of(count, rng, first=0):
    """Two images a patient; age tells the class in all but a tenth, site says nothing."""
    found = []
    for k in range(count):
        patient = (first + k) // 2
        of_patient = np.random.default_rng(patient)
        label = patient % 3
        age = 40 + 15 * label + of_patient.normal(0, 4)
        metadata = {"site": "ABC"[of_patient.integers(3)]} | (
            {} if patient % 7 == 0 else {"age": f"{age:.1f}"}
        )
        found.append(
            Example(
                f"{first + k:016x}",
                f"{first + k}.png",
                small.CLASSES[label],
                f"p{patient}",
                f"p{patient}",
                metadata,
            )
        )
    return found


@pytest.fixture(scope="module")
def dealt(tmp_path_factory):
    rng = np.random.default_rng(0)
    parts = {f"fold{f}": examples_of(60, rng, first=60 * f) for f in range(FOLDS)}
    return small.write_examples(tmp_path_factory.mktemp("dealt") / "data", parts)


def config_of(**rows):
    config = configs.load("configs/baselines/baselines.py")
    config.rows = rows or {
        "clinical": {"sources": ("covariates",), "classifier": "logistic"},
        "trees": {"sources": ("covariates",), "classifier": "boosting"},
        "site": {"sources": ("texture", "covariates"), "classifier": "logistic"},
    }
    config.inner_folds = 3
    config.settings.texture.grid = 1
    return config


@pytest.fixture(scope="module")
def compared(dealt, tmp_path_factory):
    out = tmp_path_factory.mktemp("compared") / "out"
    return out, fit.fit_baselines(config_of(), dealt, out)


def test_every_image_is_tested_once(dealt, compared):
    out, rows = compared
    assert [row.name for row in rows] == ["clinical", "site", "trees"]
    for row in rows:
        said = read_predictions(out / row.name / "eval" / "test" / "predictions.csv")
        assert len(set(said.ids)) == len(said.ids) == 180 == row.metrics["n"]
        assert row.metrics["patients"] == 90
        assert json.loads((out / row.name / "eval" / "test" / "metrics.json").read_text()) == json.loads(
            json.dumps(row.metrics)
        )


def test_what_predicts_is_found_and_differences_are_paired(compared):
    _, (clinical, _, trees) = compared
    assert clinical.difference is None
    assert clinical.metrics["balanced_accuracy"]["value"] > 0.8
    assert trees.metrics["balanced_accuracy"]["value"] > 0.7
    value, low, high, p = trees.difference
    assert value == pytest.approx(
        trees.metrics["balanced_accuracy"]["value"] - clinical.metrics["balanced_accuracy"]["value"]
    )
    assert low <= value <= high and 0 < p <= 1


def test_the_classifier_is_scikit_learns_on_what_the_training_images_say(tmp_path, dealt):
    """One fold computed again by hand: median and scale are the training images'."""
    config = config_of(clinical={"sources": ("covariates",), "classifier": "logistic"})
    config.settings.covariates.columns = ("age",)
    fit.fit_baselines(config, dealt, tmp_path)
    metrics = json.loads((tmp_path / "clinical" / "eval" / "test" / "metrics.json").read_text())
    chosen = metrics["origin"]["chosen"][1]["logisticregression__C"]
    deal = PreparedDataset.open(dealt).for_fold(1)
    rows = [
        *deal.source("train").identities(),
        *deal.source("val").identities(),
        *deal.source("test").identities(),
    ]
    age = np.asarray([float(row["age"]) for row in rows])
    y = np.asarray([row["label"] for row in rows])
    missing = np.isnan(age)
    filled = np.where(missing, np.nanmedian(age[:120]), age)
    x = np.stack([filled, missing], 1)
    x = (x - x[:120].mean(0)) / x[:120].std(0)  # one column: its block's weight is 1
    model = LogisticRegression(C=chosen, class_weight="balanced", max_iter=5000).fit(x[:120], y[:120])
    said = read_predictions(tmp_path / "clinical" / "eval" / "test" / "predictions.csv")
    assert said.ids[60:120].tolist() == [row["id"].decode() for row in rows[120:]]
    # predictions.csv has six digits
    np.testing.assert_allclose(np.exp(said.logits[60:120]), model.predict_proba(x[120:]), atol=2e-4)


def test_the_settings_are_chosen_with_whole_groups_held_out(monkeypatch, dealt, tmp_path):
    seen, patients = [], {f"p{k}" for k in range(90)}
    split = fit.StratifiedGroupKFold.split

    def spy(self, x, y=None, groups=None):
        for learn, held in split(self, x, y, groups):
            seen.append(set(groups[learn]) & set(groups[held]))
            assert set(groups) <= patients
            yield learn, held

    monkeypatch.setattr(fit.StratifiedGroupKFold, "split", spy)
    fit.fit_baselines(config_of(clinical={"sources": ("covariates",)}), dealt, tmp_path)
    assert len(seen) == 3 * FOLDS and not any(seen)


def test_a_category_that_training_never_saw_and_a_column_without_values(tmp_path):
    rng = np.random.default_rng(0)
    train, test = examples_of(60, rng), examples_of(12, rng, first=60)
    strange = [
        Example(
            e.id, e.file, e.label, e.patient_id, e.group, {**e.metadata, "site": "elsewhere", "late": "3"}
        )
        for e in test
    ]
    data = small.write_examples(tmp_path / "data", {"train": train, "test": strange})
    rows = fit.fit_baselines(
        config_of(clinical={"sources": ("covariates",)}, trees={"sources": ("covariates",), "classifier": "boosting"}),
        data, tmp_path / "out",
    )  # fmt: skip
    assert [row.metrics["n"] for row in rows] == [12, 12]
    with pytest.raises(UserError, match=r"rows\.clinical: no training image has a value of late"):
        config = config_of(clinical={"sources": ("covariates",)})
        config.settings.covariates.columns = ("late",)
        fit.fit_baselines(config, data, tmp_path / "out")


def test_the_command_writes_tables_and_compare_reads_the_rows(dealt, tmp_path, capsys):
    out = tmp_path / "out"
    flags = [
        "--config.rows={'clinical':{'sources':('covariates',)},'trees':{'sources':('covariates',),'classifier':'boosting'}}"
    ]
    assert run(["baselines", f"--data_dir={dealt}", f"--out={out}", *flags]) == 0
    assert "clinical" in capsys.readouterr().out
    with (out / "comparison.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["row"] for row in table] == ["clinical", "trees"] and float(table[1]["p_holm"]) > 0
    assert "paired on the same patients" in (out / "comparison.html").read_text()
    assert run(["compare", str(out / "clinical"), str(out / "trees")]) == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"baseline": "nothing"}, "baseline is 'nothing', which is no row; there are clinical, site, trees"),
        ({"rows": {"clinical": {"sources": ()}}}, "sources is empty; there are cortex, covariates, embedding"),
        ({"rows": {"clinical": {"sources": ("x",)}}}, "no source of features 'x'"),
        ({"rows": {"clinical": {"sources": ("texture",), "classifier": "x"}}}, "no classifier 'x'"),
        ({"rows": {"a/x": {"sources": ("texture",)}}, "baseline": "a/x"}, "a row's name is a folder's"),
        ({"metric": "x"}, "no metric 'x'"),
        ({"inner_folds": 50}, r"inner_folds=50, and a class has \d+ training group"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told(dealt, tmp_path, change, said):
    config = config_of()
    for key, value in change.items():
        configs.set_value(config, key, value)
    with pytest.raises(UserError, match=said):
        fit.fit_baselines(config, dealt, tmp_path)


def test_a_leaky_split_marks_every_row(dealt, tmp_path, monkeypatch):
    mark = {"reason": "given so", "counts": {}}
    opened = PreparedDataset.open(dealt)
    object.__setattr__(opened, "mark", mark)
    monkeypatch.setattr(fit.PreparedDataset, "open", lambda place: opened)
    (found,) = fit.fit_baselines(config_of(clinical={"sources": ("covariates",)}), dealt, tmp_path)
    assert leaky.of(found.metrics) == mark
    assert read_predictions(tmp_path / "clinical" / "eval" / "test" / "predictions.csv").mark == mark


def test_a_class_read_from_a_predicted_number():
    """P(class) is the normal share between the thresholds, with the deviation of out-of-fold predictions."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 3))
    t = x @ [1.0, -0.5, 0.0] - 1.5 + rng.normal(0, 0.5, 400)
    y = np.digitize(-t, [1.0, 2.5], right=False)  # -1 itself is osteopenia, -2.5 osteoporosis
    model, grid = CLASSIFIERS.bind("thresholded", {}, {}, "settings")(table(("a", "b", "c"), x), True, 0)
    assert list(grid) == ["alpha"]
    model.set_params(alpha=1e-3).fit(x, y, target=t)
    assert model.sigma_ == pytest.approx(0.5, rel=0.1)
    new = np.asarray([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0], [-2.0, 1.0, 0.0]])
    mean = new @ [1.0, -0.5, 0.0] - 1.5
    above = stats.norm.sf([[-1.0, -2.5]], mean[:, None], 0.5)
    truth = np.stack([above[:, 0], above[:, 1] - above[:, 0], 1 - above[:, 1]], 1)
    np.testing.assert_allclose(model.predict_proba(new), truth, atol=0.08)
    np.testing.assert_allclose(model.predict_proba(x).sum(1), 1)


def test_a_row_that_learns_a_number(tmp_path):
    """Patients without the number are not learned from, and are tested all the same."""
    rng = np.random.default_rng(0)
    examples = examples_of(120, rng)
    for number, example in enumerate(examples):
        score = f"{-1.5 * small.CLASSES.index(example.label):.1f}"
        metadata = example.metadata | ({} if number % 9 == 0 else {"score": score})
        examples[number] = dataclasses.replace(example, metadata=metadata)
    data = small.write_examples(tmp_path / "data", {"train": examples[:90], "test": examples[90:]})
    config = config_of(
        clinical={"sources": ("covariates",)},
        score={"sources": ("covariates",), "classifier": "thresholded", "target": "score"},
    )
    config.settings.covariates.columns = ("age",)
    _, score = fit.fit_baselines(config, data, tmp_path / "out")
    assert score.metrics["n"] == 30 and score.metrics["origin"]["target"] == "score"
    assert score.metrics["balanced_accuracy"]["value"] > 0.7
    with pytest.raises(UserError, match=r"rows\.score: its target 'score' is among its features"):
        config.settings.covariates.columns = ()
        fit.fit_baselines(config, data, tmp_path / "out")
    config.settings.covariates.columns = ("age",)
    with pytest.raises(UserError, match=r"rows\.score: classifier='thresholded' with target=''"):
        config.rows.score.target = ""
        fit.fit_baselines(config, data, tmp_path / "out")
    with pytest.raises(
        UserError, match=r"settings\.thresholded\.thresholds has 1 numbers and there are 3 classes"
    ):
        config.rows.score.target = "score"
        config.settings.thresholded = {"thresholds": (-1.0,)}
        fit.fit_baselines(config, data, tmp_path / "out")


def test_a_column_is_not_lost_among_the_many_of_another_source():
    """Of F columns each weighs 1 / sqrt(F): both sources have the same variance in all."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 150)
    age = table(("age",), y[:, None] + rng.normal(0, 0.3, (150, 1)))
    many = table(tuple(f"feature {k}" for k in range(600)), rng.normal(size=(150, 600)))
    both = together([many, age])
    model, _ = CLASSIFIERS.bind("logistic", {}, {}, "settings")(both, True, 0)
    x = model[:-1].fit_transform(both.values)
    assert x[:, :600].var(0).sum() == pytest.approx(1) and x[:, 600].var() == pytest.approx(1)
    model.set_params(logisticregression__C=1.0).fit(both.values[:75], y[:75])
    assert model.score(both.values[75:], y[75:]) > 0.8


def test_folds_that_share_a_patient_are_refused(tmp_path):
    rng = np.random.default_rng(0)
    first, second = examples_of(30, rng), examples_of(30, rng, first=60)
    shared = dataclasses.replace(second[0], patient_id=first[0].patient_id, group=first[0].group)
    parts = {"fold0": examples_of(30, rng, first=120), "fold1": first, "fold2": [shared, *second[1:]]}
    data = small.write_examples(tmp_path / "data", parts)
    with pytest.raises(UserError, match="two splits share 1 patients and 1 groups"):
        fit.fit_baselines(config_of(clinical={"sources": ("covariates",)}), data, tmp_path / "out")
