"""Intervals against scipy, scikit-learn and written-out loops, and against a known truth."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from osteojax.metrics import intervals
from osteojax.metrics.difference import bootstrapped
from osteojax.metrics.predictions import Predictions
from osteojax.metrics.registry import METRICS
from osteojax.metrics.sample import DRAWS, Sample
from osteojax.metrics.score import score_predictions, with_intervals

NAMES = ["healthy", "osteopenia", "osteoporosis"]


def sample(seed=0, patients=40, images=3, signal=1.5):
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), rng.integers(1, images + 1, patients))
    labels = rng.integers(0, 3, patients)[patient]
    noise = rng.normal(size=(patients, 3))[patient] + rng.normal(size=(len(patient), 3))
    return Sample(Predictions.unweighted(signal * np.eye(3)[labels] + noise / np.sqrt(2), labels), patient)


def of(name, given, index=0):
    return with_intervals(METRICS.get(name), given)[index]["ci95"]


@pytest.mark.parametrize("hits", [0, 3, 17, 20])
def test_one_image_a_patient_gives_wilsons_interval(hits):
    labels, logits = np.zeros(20, int), np.where(np.arange(20)[:, None] < hits, [[1.0, 0]], [[0, 1.0]])
    expected = stats.binomtest(hits, 20).proportion_ci(method="wilson")
    found = score_predictions(logits, labels, [str(i) for i in range(20)], ["a", "b"])
    # scipy's quantile is that of the normal; ours is Student's of a million patients.
    assert found["accuracy"]["ci95"] == pytest.approx(expected, abs=1e-6)


def test_the_design_effect_is_that_of_the_patients_sums_and_has_its_bounds():
    sizes, hits = np.array([1.0, 2, 3, 4]), np.array([1.0, 1, 3, 2])
    p = 0.7
    variance = 4 / 3 * sum((h - p * s) ** 2 for h, s in zip(hits, sizes, strict=True)) / 100
    worth = variance / (p * (1 - p) / 10)
    quantile = stats.t.ppf(0.975, 3)
    assert intervals.share(hits, sizes) == pytest.approx(intervals.wilson(p, 10 / max(worth, 1), quantile))
    assert intervals.effective(0.0, 1.0, sizes) == pytest.approx(3.0)  # nothing told: all of a patient as one
    assert intervals.effective(100.0, 1.0, sizes) == pytest.approx(3.0)
    assert intervals.effective(0.1, 1.0, sizes) == 1.0


def test_delong_is_the_area_and_the_variance_of_its_parts():
    rng = np.random.default_rng(0)
    positive = rng.random(60) < 0.4
    score = np.round(rng.normal(size=60) + positive, 1)  # with ties
    value, influence = intervals.delong(score, positive)
    assert value == pytest.approx(roc_auc_score(positive, score))
    wins = (score[positive][:, None] > score[~positive]) + 0.5 * (
        score[positive][:, None] == score[~positive]
    )
    m, n = wins.shape
    expected = wins.mean(1).var() / m + wins.mean(0).var() / n
    assert (influence**2).sum() == pytest.approx(expected)


@pytest.mark.parametrize(
    "value, m, n", [(0.8, 20.0, 30.0), (0.5, 4.0, 4.0), (1.0, 10.0, 10.0), (0.0, 5.0, 9.0)]
)
def test_newcombes_ends_solve_his_equation(value, m, n):
    low, high = intervals.newcombe(value, m, n, 1.96)
    assert low <= value <= high and low < high
    for end in (low, high):
        if end not in (0.0, 1.0):
            k = (m + n) / 2 - 1
            variance = end * (1 - end) * (1 + k * (1 - end) / (2 - end) + k * end / (1 + end)) / (m * n)
            assert (value - end) ** 2 == pytest.approx(1.96**2 * variance, rel=1e-6)


def test_the_jackknife_leaves_each_patient_out_once():
    given = sample()
    kappa = METRICS.get("quadratic_weighted_kappa").function
    values = []
    for patient in range(given.patients):
        kept = given.patient != patient
        values.append(kappa(Predictions.unweighted(given.given.logits[kept], given.given.labels[kept]))[0])
    expected = (given.patients - 1) * np.var(values)
    assert intervals.jackknife_variance(kappa(given.without)) == pytest.approx([expected])
    value = kappa(given.given)[0]
    half = stats.t.ppf(0.975, given.patients - 1) * np.sqrt(expected) / (1 - value**2)
    assert of("quadratic_weighted_kappa", given) == pytest.approx(
        np.tanh(np.arctanh(value) + np.array([-half, half]))
    )


def test_many_patients_are_left_out_in_groups_of_the_same_variance(monkeypatch):
    given = sample(patients=600, images=1)
    function = METRICS.get("accuracy").function
    one_by_one = intervals.jackknife_variance(function(given.without))
    monkeypatch.setattr("osteojax.metrics.sample._GROUPS", 100)
    grouped = Sample(given.given, given.patient)
    assert len(grouped.without.weights) == 100
    # The variance of a variance estimate from 100 groups: a factor of about 1 +- 0.15.
    assert intervals.jackknife_variance(function(grouped.without)) == pytest.approx(one_by_one, rel=0.4)


def test_draws_are_of_patients_and_come_in_portions():
    given = sample()
    counts = np.concatenate(list(given.draws(450)))
    assert counts.shape == (450, 40) and (counts.sum(1) == 40).all()
    x = np.random.default_rng(1).normal(size=(len(given.patient), 2))
    np.testing.assert_allclose(given.drawn_sums(x, 450), counts[:, given.patient] @ x)
    assert len(given.drawn_sums(x)) == DRAWS
    weights = given.weightings(450)
    assert (weights[0] == 1).all()
    np.testing.assert_array_equal(weights[1:], counts[:, given.patient])
    assert (Sample(given.given, given.patient, seed=1).weightings(450) != weights).any()


def test_a_paired_difference_by_hand():
    differences = np.array([0.5, *np.arange(-2, 98) / 100, np.nan])
    value, low, high, p = bootstrapped(differences)
    assert value == 0.5
    assert (low, high) == pytest.approx(np.percentile(np.arange(-2, 98) / 100, [2.5, 97.5]))
    assert p == pytest.approx(2 * (3 + 1) / 101)  # -0.02, -0.01 and 0 are not above 0
    assert bootstrapped(np.array([np.nan, 1.0])) == (None, None, None, None)
    assert bootstrapped(np.array([0.5, np.nan])) == (0.5, None, None, None)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("patients, images", [(18, 1), (18, 4), (2, 2)])
def test_nothing_has_zero_width_where_all_are_right(name, patients, images):
    given = sample(3, patients, images)
    sure = Sample(
        Predictions.unweighted(8.0 * np.eye(3)[given.given.labels], given.given.labels), given.patient
    )
    for entry in with_intervals(METRICS.get(name), sure):
        if entry["value"] is not None and entry["ci95"][0] is not None:
            assert entry["ci95"][0] < entry["ci95"][1], entry


@pytest.mark.parametrize("name", METRICS)
def test_an_interval_holds_the_value_and_shrinks_with_more_patients(name):
    few, many = sample(1, 30), sample(1, 600)
    for entry in with_intervals(METRICS.get(name), few):
        # Noise only adds to a calibration error: its interval may lie below what is seen.
        assert (
            name in ("ece", "calibration_error_debiased")
            or entry["ci95"][0] <= entry["value"] <= entry["ci95"][1]
        )
    widths = [np.diff(of(name, given))[0] for given in (few, many)]
    assert widths[1] < 0.5 * widths[0]


# Lowest coverage over these cells in benchmarks/interval_coverage.py, less three standard errors of 200 samples.
@pytest.mark.parametrize(
    "images, signal",
    [
        (1, 3.6),
        (4, 0.6),
        *(pytest.param(*cell, marks=pytest.mark.slow) for cell in ((1, 0.6), (1, 1.8), (4, 1.8), (4, 3.6))),
    ],
)
def test_few_patients_are_covered(signal, images):
    def simulated(rng, patients, images):
        patient = np.repeat(np.arange(patients), rng.integers(1, images + 1, patients))
        labels = rng.integers(0, 3, patients)[patient]
        noise = rng.normal(size=(patients, 3))[patient] + rng.normal(size=(len(patient), 3))
        logits = 1.5 * signal * (signal * np.eye(3)[labels] + noise / np.sqrt(2))
        return Predictions.unweighted(logits, labels), patient

    names = ("accuracy", "recall", "auc_ovr", "balanced_accuracy", "ece")
    truth, _ = simulated(np.random.default_rng(0), 200_000, 1)
    truth = {name: np.ravel(METRICS.get(name).function(truth)[0])[0] for name in names}
    rng = np.random.default_rng(1)
    inside = {name: [] for name in names}
    for _ in range(200):
        given = Sample(*simulated(rng, 20, images))
        for name in names:
            low, high = of(name, given)
            if low is not None:
                inside[name].append(low <= truth[name] <= high)
    assert {name: np.mean(found) for name, found in inside.items() if np.mean(found) < 0.88} == {}
