"""What stands in metrics.json beyond the table, against scikit-learn and loops; and other hospitals' data."""

import dataclasses
import json

import numpy as np
import pytest
import small
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from osteojax.calibration.conformal import ConformalSets
from osteojax.calibration.novelty import Novelty
from osteojax.calibration.temperature import fit_temperature
from osteojax.data import leaks
from osteojax.errors import UserError
from osteojax.evaluate import external, trust
from osteojax.evaluate.evaluate import evaluate_run
from osteojax.metrics.sample import Sample
from osteojax.run.fitted import Fitted
from osteojax.train.loop import train

NAMES = ["healthy", "osteopenia", "osteoporosis"]


@pytest.fixture
def sample():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 240)
    logits = 1.5 * np.eye(3)[labels] + rng.normal(size=(240, 3))
    return Sample.of(logits, labels, [f"p{i // 2}" for i in range(240)])


def fitted_on(rng, n=300):
    labels = rng.integers(0, 3, n)
    logits = 1.5 * np.eye(3)[labels] + rng.normal(size=(n, 3))
    novelty = Novelty.fit(rng.normal(size=(30, 4)), np.arange(30) % 3, rng.normal(size=(20, 4)), logits[:20])
    return Fitted(logits, labels, fit_temperature(logits, labels), novelty)


def test_calibration_is_told_before_and_after_the_temperature(sample):
    logits = 5 * sample.given.logits
    over = Sample.of(logits, sample.given.labels, list(map(str, sample.patient)))
    found = trust.calibration(over, logits, fit_temperature(logits, sample.given.labels))
    assert found["after"]["ece"]["value"] < 0.5 * found["before"]["ece"]["value"]
    assert found["after"]["cross_entropy"]["value"] < found["before"]["cross_entropy"]["value"]
    assert "after" not in trust.calibration(over, logits, None)
    bins = found["before"]["reliability"]
    assert sum(b["n"] for b in bins) == 240
    assert all(b["ci95"][0] <= b["value"] <= b["ci95"][1] for b in bins)


def test_calibration_intercept_and_slope_are_those_of_a_logistic_regression():
    rng = np.random.default_rng(1)
    truth = rng.normal(size=4000)
    outcome = rng.random(4000) < 1 / (1 + np.exp(-truth))
    p = 1 / (1 + np.exp(-2 * truth))  # twice too sure
    slope = trust.cox(p, outcome)[1]
    expected = LogisticRegression(C=1e9).fit((2 * truth)[:, None], outcome).coef_[0, 0]
    assert slope == pytest.approx(expected, rel=1e-3) and slope == pytest.approx(0.5, abs=0.05)
    shifted = 1 / (1 + np.exp(-(truth - 1)))
    assert trust.cox(shifted, outcome)[0] == pytest.approx(1.0, abs=0.1)


def test_probabilities_are_those_of_the_logits_over_the_temperature():
    fitted = dataclasses.replace(fitted_on(np.random.default_rng(4)), temperature=2.5)
    logits = np.random.default_rng(5).normal(size=(20, 3)).astype(np.float32)
    np.testing.assert_allclose(
        fitted.probabilities(logits), softmax(logits.astype(float) / 2.5, -1), rtol=1e-12
    )
    np.testing.assert_allclose(fitted.conformal.probabilities, softmax(fitted.logits / 2.5, -1), rtol=1e-12)


def test_questions_are_answered_with_thresholds_of_validation(sample):
    fitted = fitted_on(np.random.default_rng(2))
    p = fitted.probabilities(sample.given.logits)
    found = trust.questions(sample, p, fitted)["abnormal_vs_normal"]
    positive = sample.given.labels > 0
    assert found["auc"]["value"] == pytest.approx(roc_auc_score(positive, p[:, 1] + p[:, 2]))
    at = found["at_specificity_90"]
    own = fitted.probabilities(fitted.logits)
    healthy = (own[:, 1] + own[:, 2])[fitted.labels == 0]
    assert (healthy < at["threshold_from_validation"]).mean() == pytest.approx(0.9, abs=0.02)
    called = p[:, 1] + p[:, 2] >= at["threshold_from_validation"]
    assert at["sensitivity"]["value"] == pytest.approx(called[positive].mean())
    assert at["specificity"]["value"] == pytest.approx((~called[~positive]).mean())
    two = Sample.of(sample.given.logits[:, :2], sample.given.labels % 2, list(map(str, sample.patient)))
    assert trust.questions(two, p[:, :2], None) == {}


def test_conformal_coverage_is_counted_by_class(sample):
    fitted = fitted_on(np.random.default_rng(3))
    found = trust.conformal(sample, fitted, sample.given.logits, NAMES)
    p = fitted.probabilities(sample.given.logits)
    held = ConformalSets(fitted.probabilities(fitted.logits), fitted.labels).sets(p, "by_class")
    right = held[np.arange(240), sample.given.labels]
    assert found["by_class"]["coverage"]["value"] == pytest.approx(right.mean())
    for c, name in enumerate(NAMES):
        expected = right[sample.given.labels == c].mean()
        assert found["by_class"]["by_class"][name]["value"] == pytest.approx(expected)
    assert found["by_class"]["mean_size"] == pytest.approx(held.sum(1).mean())
    assert found["lac"]["coverage"]["value"] > 0.8


def test_curves_pass_through_the_points_of_scikit_learn(sample):
    found = trust.curves(sample, NAMES)["osteopenia"]
    positive, score = sample.given.labels == 1, sample.given.probabilities[:, 1]
    fall_out, sensitivity, _ = roc_curve(positive, score, drop_intermediate=False)
    np.testing.assert_allclose(np.interp(fall_out, found["roc"]["x"], found["roc"]["y"])[-1], sensitivity[-1])
    assert set(np.round(sensitivity, 9)) <= set(np.round(found["roc"]["y"], 9))
    rise = np.diff(found["precision_recall"]["x"], prepend=0)
    assert (rise * found["precision_recall"]["y"]).sum() == pytest.approx(
        average_precision_score(positive, score)
    )
    inside = np.interp(found["roc"]["at"], found["roc"]["x"], found["roc"]["y"])
    low, high = np.asarray(found["roc"]["low"]), np.asarray(found["roc"]["high"])
    assert (low <= inside + 1e-9).mean() > 0.95 and (inside <= high + 1e-9).mean() > 0.95
    assert (high - low).max() > 0.05


def test_subgroups_are_named_counted_and_warned_of(sample):
    columns = {
        "sex": ["f", "m"] * 120,
        "age": [float(40 + i % 45) for i in range(239)] + [np.nan],
        "site": ["here"] * 240,
        "serial": [f"n{i}" for i in range(240)],
        "dose": list(np.linspace(0, 1, 240)),
        "side": [b"left"] * 40 + [b"right"] * 200,
    }
    found = trust.subgroups(sample, columns)
    assert set(found) == {"sex", "age", "dose", "side"}
    assert found["sex"]["f"]["n"] == 120 and found["sex"]["f"]["patients"] == 120
    right = sample.given.predicted == sample.given.labels
    assert found["sex"]["m"]["accuracy"]["value"] == pytest.approx(right[1::2].mean())
    assert list(found["age"]) == ["040-049", "050-059", "060-069", "070-079", "080-089"]
    assert sum(group["n"] for group in found["age"].values()) == 239  # one is not known
    assert len(found["dose"]) == 4
    assert found["side"]["left"]["few"] and not found["side"]["right"]["few"]


def test_probabilities_for_other_class_shares_are_bayes_rule():
    then, here = np.array([0.5, 0.5]), np.array([0.9, 0.1])
    found = external.shifted(np.array([[0.5, 0.5], [0.2, 0.8]]), here, then)
    np.testing.assert_allclose(found, [[0.9, 0.1], [0.18 / 0.26, 0.08 / 0.26]])


def manifest(folder, rows):
    lines = ["file,label,patient_id,group,split,pixels"]
    lines += [f"f,{label},{patient},{patient},{split},{pixels}" for label, patient, split, pixels in rows]
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture
def elsewhere(tmp_path):
    """A run, and the dataset of another hospital."""
    own = small.write_dataset(tmp_path / "own", {"train": 22, "val": 7, "test": 11})
    other = small.write_dataset(tmp_path / "other", {"train": 4, "test": 14}, seed=1)
    train(small.quick_config(own), tmp_path / "run")
    return tmp_path, own, other


def test_another_hospitals_data_are_checked_for_what_was_learned(elsewhere):
    folder, own, other = elsewhere
    manifest(own, [("healthy", "a", "train", 1), ("osteopenia", "b", "val", 2), ("healthy", "c", "test", 3)])
    manifest(other, [("healthy", "x", "test", 8), ("healthy", "c", "test", 3), ("healthy", "a", "train", 9)])
    metrics = evaluate_run(
        folder / "run", data_dir=str(other), near_copies=False
    )  # `a` is not tested, `c` was not learned from
    assert metrics["external"]["overlap"] == {
        "checked": True, "allowed": False,
        "shared": {"patient_id": 0, "pixels": 0, "near_copies": None}, "near_copies": None,
    }  # fmt: skip
    shares = metrics["external"]["prevalence"]
    assert shares["trained_on"] == {"healthy": 1.0, "osteopenia": 0.0, "osteoporosis": 0.0}
    assert sum(shares["tested"].values()) == pytest.approx(1)
    assert set(shares["recalibrated_in_the_large"]) >= {"accuracy", "brier"}

    manifest(other, [("healthy", "a", "test", 8), ("healthy", "y", "test", 2)])
    with pytest.raises(
        UserError, match="1 patient ids, 1 identical images and 0 near copies are in the training data"
    ):
        evaluate_run(folder / "run", data_dir=str(other), near_copies=False)
    allowed = evaluate_run(folder / "run", data_dir=str(other), near_copies=False, allow_overlap=True)
    assert allowed["external"]["overlap"]["shared"] == {"patient_id": 1, "pixels": 1, "near_copies": None}
    (other / "manifest.csv").unlink()
    assert evaluate_run(folder / "run", data_dir=str(other), near_copies=False)["external"]["overlap"] == {
        "checked": False
    }
    assert evaluate_run(folder / "run")["external"] is None


def test_every_example_is_counted(elsewhere, monkeypatch):
    folder, _, _ = elsewhere
    from osteojax.data import dataset

    honest = dataset.PreparedDataset.for_fold

    def lying(self, *tested):
        found = honest(self, *tested)
        return dataclasses.replace(found, splits={**found.splits, "test": 12})

    monkeypatch.setattr(dataset.PreparedDataset, "for_fold", lying)
    with pytest.raises(UserError, match="hold 11 examples where 12"):
        evaluate_run(folder / "run")
    assert leaks.Leaks((1, 1), {}).clean and json.dumps({})
