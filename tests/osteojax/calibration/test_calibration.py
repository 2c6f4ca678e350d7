"""Temperature, conformal sets, novelty and thresholds against scikit-learn, simulation and loops written out."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_curve

from osteojax.calibration import thresholds
from osteojax.calibration.conformal import ConformalSets
from osteojax.calibration.novelty import Novelty
from osteojax.calibration.temperature import fit_temperature


def calibrated(rng, n, signal=1.2):
    """Logits whose probabilities are right."""
    labels = rng.integers(0, 3, n)
    return signal * (signal * np.eye(3)[labels] + rng.normal(size=(n, 3))), labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_was_put_in_is_found(temperature):
    logits, labels = calibrated(np.random.default_rng(0), 20_000)
    assert fit_temperature(temperature * logits, labels) == pytest.approx(temperature, rel=0.03)


def test_the_temperature_is_that_of_a_logistic_regression_with_one_slope():
    rng = np.random.default_rng(1)
    score, labels = rng.normal(size=400), rng.integers(0, 2, 400)
    score = score + labels
    logits = np.stack([np.zeros(400), score], -1)
    slope = LogisticRegression(C=1e9, fit_intercept=False, tol=1e-10).fit(score[:, None], labels).coef_[0, 0]
    assert 1 / fit_temperature(logits, labels) == pytest.approx(slope, rel=1e-4)


@pytest.mark.parametrize("method", ["lac", "aps", "by_class"])
def test_sets_hold_the_truth_as_often_as_they_say(method):
    rng = np.random.default_rng(2)
    inside = []
    for _ in range(30):
        validation, labels = calibrated(rng, 300)
        test, truth = calibrated(rng, 300)
        # Overconfident: coverage must not rest on the probabilities.
        sets = ConformalSets(softmax(4 * validation, -1), labels).sets(softmax(4 * test, -1), method)
        assert 0 < sets.sum(-1).mean() < 3
        inside.append([sets[np.arange(300), truth][truth == c].mean() for c in range(3)])
    assert np.mean(inside) >= 0.89
    if method == "by_class":
        assert (np.mean(inside, 0) >= 0.88).all()


def test_sets_by_class_hold_in_a_rare_class_too_where_the_others_do_not():
    rng = np.random.default_rng(3)

    def skewed(n):
        labels = rng.choice(3, n, p=[0.8, 0.15, 0.05])
        return softmax(3 * np.eye(3)[labels] * [1, 1, 0.2] + rng.normal(size=(n, 3)) + [2, 0, 0], -1), labels

    validation, labels = skewed(3000)
    test, truth = skewed(3000)
    fitted = ConformalSets(validation, labels)
    held = {m: fitted.sets(test, m)[np.arange(3000), truth][truth == 2].mean() for m in ("lac", "by_class")}
    assert held["lac"] < 0.8 and 0.85 < held["by_class"] < 0.95


def test_the_threshold_of_a_class_is_the_conformal_quantile_written_out():
    rng = np.random.default_rng(4)
    validation, labels = calibrated(rng, 60)
    p = softmax(validation, -1)
    scores = np.sort(1 - p[labels == 1, 1])
    rank = int(np.ceil(0.9 * (len(scores) + 1)))
    test = softmax(rng.normal(size=(50, 3)), -1)
    found = ConformalSets(p, labels).sets(test, "by_class")[:, 1]
    np.testing.assert_array_equal(found, 1 - test[:, 1] <= scores[rank - 1] + 1e-12)


def test_too_few_examples_name_all_classes():
    p = np.full((10, 3), [0.9, 0.05, 0.05])
    sets = ConformalSets(p, np.array([0] * 10))
    assert sets.needed == 11
    assert sets.sets(p, "lac").all() and sets.sets(p, "by_class").all()
    enough = ConformalSets(np.full((11, 3), [0.9, 0.05, 0.05]), np.array([0] * 11))
    assert enough.sets(p, "by_class")[:, 0].any() and enough.sets(p, "by_class")[:, 1].all()


def features(rng, n, classes=3, size=40):
    labels = rng.integers(0, classes, n)
    scale = np.linspace(3, 0.3, size)
    return (4 * np.eye(size)[labels] + rng.normal(size=(n, size)) * scale), labels, rng.normal(size=(n, 3))


def test_images_like_those_of_training_are_flagged_at_the_stated_rate_and_strangers_are_not_missed():
    rng = np.random.default_rng(5)
    train, labels, _ = features(rng, 400)
    rates = []
    for _ in range(20):
        validation, _, logits = features(rng, 200)
        novelty = Novelty.fit(train, labels, validation, logits, rate=0.05)
        test, _, more = features(rng, 500)
        rates.append(novelty.flagged(test, more).mean())
        assert novelty.flagged(
            test + 8 * np.eye(40)[39], more
        ).all()  # far along a direction that hardly varies
        assert not novelty.flagged(test + 0.5 * np.eye(40)[0], more).mean() > 0.3
        assert novelty.flagged(test, more - 50).all()  # no class is likely at all
    assert 0.01 < np.mean(rates) < 0.08


def test_the_distance_is_mahalanobis_with_the_covariance_of_the_classes():
    rng = np.random.default_rng(6)
    train, labels, _ = features(rng, 20_000, size=5)
    novelty = Novelty.fit(train, labels, train[:100], rng.normal(size=(100, 3)))
    means = np.stack([train[labels == c].mean(0) for c in range(3)])
    inverse = np.linalg.inv(np.cov((train - means[labels]).T, bias=True))
    away = train[:50, None] - means
    expected = np.sqrt(np.einsum("ncf,fg,ncg->nc", away, inverse, away)).min(1)
    # Ledoit and Wolf shrink a little, less the more images there are.
    np.testing.assert_allclose(novelty.scores(train[:50], np.zeros((50, 3)))[:, 0], expected, rtol=0.02)


def test_fewer_images_than_features_and_a_missing_class_are_no_trouble():
    rng = np.random.default_rng(7)
    train, labels, _ = features(rng, 12, classes=2, size=300)
    novelty = Novelty.fit(train, labels, train[:5], rng.normal(size=(5, 3)))
    assert np.isfinite(novelty.scores(train, np.zeros((12, 3)))).all() and len(novelty.means) == 2
    constant = Novelty.fit(np.ones((6, 4)), np.zeros(6, int), np.ones((3, 4)), np.zeros((3, 3)))
    assert np.isfinite(constant.scores(np.ones((2, 4)), np.zeros((2, 3)))).all()


@pytest.mark.parametrize("least", [0.5, 0.9, 1.0])
def test_thresholds_are_the_best_of_all_that_keep_the_promise(least):
    rng = np.random.default_rng(8)
    positive = rng.random(80) < 0.4
    score = np.round(rng.normal(size=80) + positive, 1)  # with ties
    fall_out, sensitivity, _ = roc_curve(positive, score, drop_intermediate=False)
    cut = thresholds.at_specificity(score, positive, least)
    assert (score[~positive] < cut).mean() >= least
    allowed = sensitivity[1 - fall_out >= least - 1e-12]
    assert (score[positive] >= cut).mean() == pytest.approx(allowed.max())
    cut = thresholds.at_sensitivity(score, positive, least)
    assert (score[positive] >= cut).mean() >= least
    assert (score[~positive] < cut).mean() == pytest.approx(
        (1 - fall_out[sensitivity >= least - 1e-12]).max()
    )


def test_thresholds_without_one_of_the_classes():
    score = np.array([0.2, 0.8])
    assert thresholds.at_specificity(score, np.array([True, True])) == np.inf
    assert thresholds.at_sensitivity(score, np.array([False, False])) == -np.inf


def test_net_benefit_by_hand():
    score, positive = np.array([0.9, 0.6, 0.4, 0.1]), np.array([True, False, True, False])
    at = np.array([0.5, 0.2])
    # At 0.5: one true, one false of four: 1/4 - 1/4 * 1. At 0.2: two true, one false: 2/4 - 1/4 * 0.25.
    np.testing.assert_allclose(thresholds.net_benefit(score, positive, at), [0.0, 0.4375])
    np.testing.assert_allclose(thresholds.treat_all(positive, at), [0.5 - 0.5, 0.5 - 0.5 * 0.25])


def test_questions_add_the_probabilities_of_their_classes():
    p = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])
    score, positive = thresholds.answers(p, np.array([0, 1]), "abnormal_vs_normal")
    np.testing.assert_allclose(score, [0.5, 0.9])
    assert positive.tolist() == [False, True]
    score, positive = thresholds.answers(p, np.array([0, 2]), "osteoporosis_vs_rest")
    np.testing.assert_allclose(score, [0.2, 0.7])
    assert positive.tolist() == [False, True]


def test_what_leaves_the_subspace_of_the_training_images_counts():
    rng = np.random.default_rng(9)
    basis = np.linalg.qr(rng.normal(size=(300, 300)))[0]
    train, labels = rng.normal(size=(40, 20)) @ basis[:20], rng.integers(0, 3, 40)
    validation, logits = rng.normal(size=(60, 20)) @ basis[:20], rng.normal(size=(60, 3))
    novelty = Novelty.fit(train, labels, validation, logits)
    test = rng.normal(size=(50, 20)) @ basis[:20]
    assert novelty.flagged(test, logits[:50]).mean() < 0.3
    assert novelty.flagged(test + 4 * basis[250], logits[:50]).all()
