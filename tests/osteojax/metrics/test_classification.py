"""Against scikit-learn: point values to 1e-12 (both are float64), weighted resamples by repeating the examples."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn import metrics as reference

from osteojax.metrics import classification as scores

NAMES = ["healthy", "osteopenia", "osteoporosis"]


@pytest.fixture
def predictions():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 3, 200)
    # Rounded, so that there are ties.
    logits = np.round(rng.normal(size=(200, 3)) + 1.2 * np.eye(3)[labels], 1)
    patients = [f"p{i // 3}" for i in range(200)]
    return logits, labels, patients


def probabilities(logits):
    return softmax(logits, axis=-1)  # as the code under test: another formula would break ties otherwise


def test_point_values_equal_scikit_learn(predictions):
    logits, labels, patients = predictions
    found = scores.score_predictions(logits, labels, patients, NAMES)
    guess, p = logits.argmax(-1), probabilities(logits)
    expected = {
        "accuracy": reference.accuracy_score(labels, guess),
        "balanced_accuracy": reference.balanced_accuracy_score(labels, guess),
        "macro_f1": reference.f1_score(labels, guess, average="macro"),
        "quadratic_weighted_kappa": reference.cohen_kappa_score(labels, guess, weights="quadratic"),
        "auc_ovr_macro": reference.roc_auc_score(labels, p, multi_class="ovr"),
        "brier": np.mean(((p - np.eye(3)[labels]) ** 2).sum(-1)),
    }
    for name, value in expected.items():
        assert found[name]["value"] == pytest.approx(value, abs=1e-12), name
    table = reference.precision_recall_fscore_support(labels, guess)
    for c, name in enumerate(NAMES):
        of = found["per_class"][name]
        got = (of["precision"]["value"], of["recall"]["value"], of["f1"]["value"], of["support"])
        assert got == pytest.approx([column[c] for column in table], abs=1e-12)
        auc = reference.roc_auc_score(labels == c, p[:, c])
        assert found["auc_ovr"][name]["value"] == pytest.approx(auc, abs=1e-12)
        average_precision = reference.average_precision_score(labels == c, p[:, c])
        assert found["pr_auc"][name]["value"] == pytest.approx(average_precision, abs=1e-12)
    assert found["confusion_matrix"] == reference.confusion_matrix(labels, guess).tolist()


def test_a_weighted_resample_equals_scikit_learn_on_repeated_examples(predictions):
    logits, labels, _ = predictions
    times = np.random.default_rng(0).integers(0, 4, len(labels))
    again = np.repeat(np.arange(len(labels)), times)
    score, positive = probabilities(logits)[:, 1], labels == 1
    auc, average_precision = scores._areas(score, positive, times[None].astype(float))
    assert auc[0] == pytest.approx(reference.roc_auc_score(positive[again], score[again]), abs=1e-12)
    assert average_precision[0] == pytest.approx(
        reference.average_precision_score(positive[again], score[again]), abs=1e-12
    )
    confusion = scores._confusion(labels, logits.argmax(-1), times[None].astype(float), 3)
    kappa = reference.cohen_kappa_score(labels[again], logits.argmax(-1)[again], weights="quadratic")
    assert scores._quadratic_weighted_kappa(confusion)[0] == pytest.approx(kappa, abs=1e-12)


def test_calibration_error_by_hand():
    # Two bins: 0.9 (right, wrong) and 0.7 (right): |0.5 - 0.9| * 2/3 + |1 - 0.7| * 1/3.
    found = scores._calibration_error(np.array([0.9, 0.9, 0.7]), np.array([1, 0, 1]), np.ones((1, 3)))
    assert found[0] == pytest.approx(0.4 * 2 / 3 + 0.3 / 3)


def test_the_interval_holds_the_value_and_widens_when_patients_share_images(predictions):
    logits, labels, _ = predictions
    copies = np.repeat(np.arange(50), 4)
    of_images = scores.score_predictions(logits[copies], labels[copies], [str(i) for i in range(200)], NAMES)[
        "accuracy"
    ]
    of_patients = scores.score_predictions(logits[copies], labels[copies], [str(i) for i in copies], NAMES)[
        "accuracy"
    ]
    assert of_images["ci95"][0] <= of_images["value"] <= of_images["ci95"][1]
    # Four copies of each image tell nothing new: the honest interval is about twice as wide.
    width = lambda entry: entry["ci95"][1] - entry["ci95"][0]  # noqa: E731
    assert 1.6 < width(of_patients) / width(of_images) < 2.4


def test_bootstrap_interval_of_an_accuracy_is_near_the_binomial_one():
    labels = np.zeros(400, int)
    logits = np.where(np.arange(400)[:, None] < 300, [[1.0, 0.0]], [[0.0, 1.0]])
    low, high = scores.score_predictions(logits, labels, [str(i) for i in range(400)], ["a", "b"])[
        "accuracy"
    ]["ci95"]
    half = 1.96 * np.sqrt(0.75 * 0.25 / 400)
    assert (low, high) == pytest.approx((0.75 - half, 0.75 + half), abs=0.01)


def test_a_class_without_examples_has_no_recall_and_does_not_break_the_rest():
    logits = np.array([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 2.0]])
    found = scores.score_predictions(logits, np.array([0, 1, 1]), ["a", "b", "c"], NAMES)
    assert found["per_class"]["osteoporosis"]["recall"] == {"value": None, "ci95": [None, None]}
    assert found["per_class"]["osteoporosis"]["support"] == 0
    assert found["balanced_accuracy"]["value"] == pytest.approx(0.75)


def test_validation_metrics_equal_scikit_learn(predictions):
    logits, labels, _ = predictions
    found = scores.validation_metrics(logits, labels)
    assert found["loss"] == pytest.approx(reference.log_loss(labels, probabilities(logits)), abs=1e-12)
    assert found["balanced_accuracy"] == pytest.approx(
        reference.balanced_accuracy_score(labels, logits.argmax(-1)), abs=1e-12
    )
