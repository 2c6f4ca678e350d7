"""Every registered metric against scikit-learn or a formula written out here: values to 1e-12, as both are float64.

A metric that is added needs an entry in REFERENCES; the tests then cover it.
"""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn import metrics as reference

from osteojax.errors import UserError
from osteojax.metrics.predictions import Predictions
from osteojax.metrics.registry import METRICS, metric, scalar, scalars
from osteojax.metrics.sample import Sample
from osteojax.metrics.score import score_predictions, validation_metrics

NAMES = ["healthy", "osteopenia", "osteoporosis"]


def calibration_error(labels, p, guess):
    """Bin by bin, as the paper writes it."""
    confidence, correct, total = p.max(-1), guess == labels, 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            total += inside.sum() * abs(correct[inside].mean() - confidence[inside].mean())
    return total / len(labels)


def debiased(labels, p, guess):
    """Bin by bin, as the paper writes it for the squared error."""
    confidence, correct, total = p.max(-1), guess == labels, 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.sum() > 1:
            accuracy = correct[inside].mean()
            chance = accuracy * (1 - accuracy) / (inside.sum() - 1)
            total += inside.sum() * ((accuracy - confidence[inside].mean()) ** 2 - chance)
    return np.sqrt(max(total / len(labels), 0))


def in_order(labels, p, guess):
    """Pair by pair."""
    expected = p @ np.arange(3)
    difference = labels[:, None] - labels
    order = np.sign(expected[:, None] - expected) * np.sign(difference)
    return ((order[difference != 0] + 1) / 2).mean()


def by_class(score):
    return lambda labels, p, guess: [score(labels == c, p[:, c]) for c in range(3)]


def column(index):
    return lambda labels, p, guess: reference.precision_recall_fscore_support(labels, guess)[index]


# f(labels (N,), probabilities (N, 3), predicted (N,)) -> a number, or one for each class.
REFERENCES = {
    "accuracy": lambda labels, p, guess: reference.accuracy_score(labels, guess),
    "balanced_accuracy": lambda labels, p, guess: reference.balanced_accuracy_score(labels, guess),
    "macro_f1": lambda labels, p, guess: reference.f1_score(labels, guess, average="macro"),
    "quadratic_weighted_kappa": lambda labels, p, guess: reference.cohen_kappa_score(
        labels, guess, weights="quadratic"
    ),
    "auc_ovr": by_class(reference.roc_auc_score),
    "auc_ovr_macro": lambda labels, p, guess: reference.roc_auc_score(labels, p, multi_class="ovr"),
    "pr_auc": by_class(reference.average_precision_score),
    "brier": lambda labels, p, guess: np.mean(((p - np.eye(3)[labels]) ** 2).sum(-1)),
    "ece": calibration_error,
    "calibration_error_debiased": debiased,
    "specificity": lambda labels, p, guess: [
        reference.recall_score(labels != c, guess != c, pos_label=True) for c in range(3)
    ],
    "mcc": lambda labels, p, guess: reference.matthews_corrcoef(labels, guess),
    "mean_absolute_class_error": lambda labels, p, guess: reference.mean_absolute_error(labels, guess),
    "c_index": in_order,
    "cross_entropy": lambda labels, p, guess: reference.log_loss(labels, p),
    "precision": column(0),
    "recall": column(1),
    "f1": column(2),
}


def same_as_reference(name, logits, labels, found):
    p = softmax(
        logits.astype(np.float64), axis=-1
    )  # as the code under test: another formula would break ties
    assert name in REFERENCES, f"add a reference value for the metric {name!r} to {__file__}"
    assert found == pytest.approx(REFERENCES[name](labels, p, logits.argmax(-1)), abs=1e-12)


@pytest.fixture
def predictions():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 3, 200)
    # Rounded, so that there are ties.
    logits = np.round(rng.normal(size=(200, 3)) + 1.2 * np.eye(3)[labels], 1)
    patients = [f"p{i // 3}" for i in range(200)]
    return logits, labels, patients


@pytest.mark.parametrize("name", METRICS)
def test_each_metric_equals_its_reference(name, predictions):
    logits, labels, _ = predictions
    found = METRICS.get(name).function(Predictions.unweighted(logits, labels))
    assert len(found) == 1
    same_as_reference(name, logits, labels, found[0])


@pytest.mark.parametrize("name", METRICS)
def test_weights_are_repetitions(name, predictions):
    logits, labels, _ = predictions
    times = np.random.default_rng(0).integers(0, 4, (2, len(labels)))
    found = METRICS.get(name).function(Predictions(logits, labels, times.astype(float)))
    for row, repeated in enumerate(times):
        again = np.repeat(np.arange(len(labels)), repeated)
        same_as_reference(name, logits[again], labels[again], found[row])


@pytest.mark.parametrize("name", METRICS)
def test_each_metric_gets_better_in_its_direction(name, predictions):
    logits, labels, _ = predictions
    member = METRICS.get(name)
    surer = logits + 3.0 * np.eye(3)[labels]
    if name == "calibration_error_debiased":  # better calibrated, not more often right
        logits, surer = 6 * logits, logits
    before, after = (member.function(Predictions.unweighted(x, labels))[0] for x in (logits, surer))
    assert np.all(after > before if member.direction == "max" else after < before)


def test_metrics_json_holds_every_metric_with_its_interval_computed_apart(predictions):
    logits, labels, patients = predictions
    found = score_predictions(logits, labels, patients, NAMES, seed=5)
    assert (found["n"], found["patients"]) == (200, 67)
    assert found["confusion_matrix"] == reference.confusion_matrix(labels, logits.argmax(-1)).tolist()
    assert [found["per_class"][name]["support"] for name in NAMES] == np.bincount(labels).tolist()
    for name, member in METRICS.members.items():
        if member.form == "scalar":
            entries = [found[name]]
        elif member.form == "by_class":
            entries = [found[name][c] for c in NAMES]
        else:
            entries = [found["per_class"][c][name] for c in NAMES]
        values = np.ravel(member.function(Predictions.unweighted(logits, labels)))
        for entry, value in zip(entries, values, strict=True):
            assert entry["value"] == pytest.approx(value, abs=1e-12), name
            assert entry["ci95"][0] < entry["ci95"][1], name


def test_the_seed_makes_the_draws_of_the_intervals_that_need_some(predictions):
    logits, labels, patients = predictions
    first, again, other = (
        score_predictions(logits, labels, patients, NAMES, seed=seed) for seed in (0, 0, 1)
    )
    assert first == again
    assert first["ece"]["value"] == other["ece"]["value"] and first["ece"]["ci95"] != other["ece"]["ci95"]
    assert first["accuracy"] == other["accuracy"]


def test_calibration_error_by_hand():
    # Two bins: 0.9 (right, wrong) and 0.7 (right): |0.5 - 0.9| * 2/3 + |1 - 0.7| * 1/3.
    logits = np.log([[0.9, 0.1], [0.9, 0.1], [0.7, 0.3]])
    found = METRICS.get("ece").function(Predictions.unweighted(logits, np.array([0, 1, 0])))
    assert found[0] == pytest.approx(0.4 * 2 / 3 + 0.3 / 3)


def test_the_interval_holds_the_value_and_widens_when_patients_share_images(predictions):
    logits, labels, _ = predictions
    copies = np.repeat(np.arange(50), 4)

    def accuracy(patients):
        return score_predictions(logits[copies], labels[copies], patients, NAMES)["accuracy"]

    of_images, of_patients = accuracy([str(i) for i in range(200)]), accuracy([str(i) for i in copies])
    assert of_images["ci95"][0] <= of_images["value"] <= of_images["ci95"][1]
    # Four copies of each image tell nothing new: the honest interval is about twice as wide.
    width = lambda entry: entry["ci95"][1] - entry["ci95"][0]  # noqa: E731
    assert 1.6 < width(of_patients) / width(of_images) < 2.4


def test_one_patient_gives_values_but_no_intervals(predictions):
    logits, labels, _ = predictions
    assert Sample.of(logits, labels, ["p"] * 200).weightings().shape == (1, 200)
    found = score_predictions(logits, labels, ["p"] * 200, NAMES)
    assert found["accuracy"]["value"] == pytest.approx(np.mean(logits.argmax(-1) == labels))
    assert found["accuracy"]["ci95"] == found["per_class"]["healthy"]["recall"]["ci95"] == [None, None]
    assert found["patients"] == 1


def test_a_class_without_examples_has_no_recall_and_does_not_break_the_rest():
    logits = np.array([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 2.0]])
    found = score_predictions(logits, np.array([0, 1, 1]), ["a", "b", "c"], NAMES)
    assert found["per_class"]["osteoporosis"]["recall"] == {"value": None, "ci95": [None, None]}
    assert found["per_class"]["osteoporosis"]["support"] == 0
    assert found["balanced_accuracy"]["value"] == pytest.approx(0.75)
    assert found["auc_ovr_macro"]["value"] is None


def test_validation_has_every_scalar_metric(predictions):
    logits, labels, _ = predictions
    found = validation_metrics(logits, labels)
    assert set(found) == set(scalars())
    for name, value in found.items():
        same_as_reference(name, logits, labels, value)


def test_an_unknown_metric_and_one_that_is_no_scalar_are_refused_by_name():
    with pytest.raises(UserError, match="no metric 'accurate'; there are accuracy, "):
        scalar("accurate")
    with pytest.raises(UserError, match="no metric 'recall'"):
        scalar("recall")


def test_a_registered_metric_is_validated_and_evaluated_without_further_ado(predictions):
    logits, labels, patients = predictions
    with METRICS.temporary():

        @metric("errors", direction="min")
        def errors(given):
            return given.mean(given.predicted != given.labels)

        share = np.mean(logits.argmax(-1) != labels)
        assert validation_metrics(logits, labels)["errors"] == pytest.approx(share)
        assert score_predictions(logits, labels, patients, NAMES)["errors"]["value"] == pytest.approx(share)
    assert "errors" not in METRICS
