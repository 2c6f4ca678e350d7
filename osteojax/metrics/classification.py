"""Metrics of a classifier, each with its interval.

Point values follow scikit-learn's definitions (and are tested against it). Intervals are 95 % percentile bootstrap
intervals over patients, not images: images of one patient are not independent (Efron and Tibshirani 1993, ch. 8 and
13). A resample is a vector of how often each patient was drawn, so every metric is computed once for all resamples
with example weights.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import log_softmax, softmax

RESAMPLES = 1000
CALIBRATION_BINS = 15


def validation_metrics(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Loss (nats), accuracy, balanced accuracy and macro F1 of logits (N, C) against labels (N,)."""
    loss = -log_softmax(logits.astype(np.float64), axis=-1)[np.arange(len(labels)), labels].mean()
    weights = np.ones((1, len(labels)))
    values = _from_confusion(_confusion(labels, logits.argmax(-1), weights, logits.shape[-1]))
    names = ("accuracy", "balanced_accuracy", "macro_f1")
    return {"loss": float(loss)} | {name: float(values[name][0]) for name in names}


def score_predictions(
    logits: np.ndarray,
    labels: np.ndarray,
    patients: Sequence[str],
    class_names: Sequence[str],
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """The metrics of metrics.json.

    Args:
        logits: (N, C).
        labels: (N,) int in 0 .. C - 1.
        patients: (N,) the resampling unit of each example.
        class_names: C names, in label order.
        seed: of the resampling.

    Returns:
        Plain JSON types; each scalar is {"value": v, "ci95": [lo, hi]}. A value that the data do not define (the
        recall of a class without examples) is None.
    """
    classes = len(class_names)
    probabilities = softmax(logits.astype(np.float64), axis=-1)
    _, unit = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    units = int(unit.max()) + 1
    draws = np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), size=RESAMPLES)
    weights = np.concatenate([np.ones((1, len(labels))), draws[:, unit]])  # row 0 is the data themselves

    predicted = logits.argmax(-1)
    confusion = _confusion(labels, predicted, weights, classes)
    values = _from_confusion(confusion)
    result: dict[str, Any] = {
        "n": len(labels),
        "patients": units,
        **{name: _with_interval(values[name]) for name in ("accuracy", "balanced_accuracy", "macro_f1")},
        "quadratic_weighted_kappa": _with_interval(_quadratic_weighted_kappa(confusion)),
        "per_class": {},
        "auc_ovr": {},
        "pr_auc": {},
    }
    areas = []
    for c, name in enumerate(class_names):
        result["per_class"][name] = {
            key: _with_interval(values[key][:, c]) for key in ("precision", "recall", "f1")
        }
        result["per_class"][name]["support"] = int((labels == c).sum())
        auc, pr_auc = _areas(probabilities[:, c], labels == c, weights)
        areas.append(auc)
        result["auc_ovr"][name], result["pr_auc"][name] = _with_interval(auc), _with_interval(pr_auc)
    result["auc_ovr_macro"] = _with_interval(np.mean(areas, axis=0))
    onehot = np.eye(classes)[labels]
    result["brier"] = _with_interval(_mean(((probabilities - onehot) ** 2).sum(-1), weights))
    result["ece"] = _with_interval(_calibration_error(probabilities.max(-1), predicted == labels, weights))
    result["confusion_matrix"] = confusion[0].astype(int).tolist()
    return result


def _with_interval(samples: np.ndarray) -> dict[str, Any]:
    value, resampled = samples[0], samples[1:][np.isfinite(samples[1:])]
    if not np.isfinite(value):
        return {"value": None, "ci95": [None, None]}
    low, high = np.percentile(resampled, [2.5, 97.5]) if len(resampled) else (None, None)
    return {
        "value": float(value),
        "ci95": [low if low is None else float(low), high if high is None else float(high)],
    }


def _mean(per_example: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return weights @ per_example / weights.sum(-1)


def _confusion(labels: np.ndarray, predicted: np.ndarray, weights: np.ndarray, classes: int) -> np.ndarray:
    """(R, C, C) weighted counts; rows are true classes, columns predicted ones."""
    cell = np.eye(classes * classes)[labels * classes + predicted]
    return (weights @ cell).reshape(-1, classes, classes)


def _ratio(numerator: np.ndarray, denominator: np.ndarray, empty: float) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.full(np.shape(numerator), empty), where=denominator > 0)


def _from_confusion(confusion: np.ndarray) -> dict[str, np.ndarray]:
    hits = np.diagonal(confusion, axis1=1, axis2=2)
    true, predicted = confusion.sum(2), confusion.sum(1)
    # scikit-learn's zero_division=0 for precision and F1; the recall of an absent class is not defined.
    recall = _ratio(hits, true, np.nan)
    f1 = _ratio(2 * hits, true + predicted, np.nan)
    present = (true + predicted) > 0
    return {
        "accuracy": hits.sum(-1) / confusion.sum((1, 2)),
        "precision": _ratio(hits, predicted, 0.0),
        "recall": recall,
        "f1": f1,
        "balanced_accuracy": _ratio(np.where(true > 0, recall, 0).sum(-1), (true > 0).sum(-1), np.nan),
        "macro_f1": _ratio(np.where(present, f1, 0).sum(-1), present.sum(-1), np.nan),
    }


def _quadratic_weighted_kappa(confusion: np.ndarray) -> np.ndarray:
    """Cohen 1968 with weights (i - j)^2: the classes are ordered."""
    classes = confusion.shape[-1]
    cost = (np.arange(classes)[:, None] - np.arange(classes)) ** 2
    total = confusion.sum((1, 2))
    expected = confusion.sum(2)[:, :, None] * confusion.sum(1)[:, None, :] / total[:, None, None]
    return 1 - _ratio((cost * confusion).sum((1, 2)), (cost * expected).sum((1, 2)), np.nan)


def _areas(score: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Areas under the ROC curve and the precision-recall curve (average precision), (R,) each.

    Thresholds are the distinct scores, as in scikit-learn: tied examples cross a threshold together.
    """
    order = np.argsort(-score, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
    ordered = weights[:, order]
    true = np.cumsum(ordered * positive[order], -1)[:, ends]
    false = np.cumsum(ordered * ~positive[order], -1)[:, ends]
    positives, negatives = true[:, -1], false[:, -1]
    zero = np.zeros((len(weights), 1))
    rise = np.diff(true, prepend=zero)
    run = np.diff(false, prepend=zero)
    roc = _ratio((run * (true - rise / 2)).sum(-1), positives * negatives, np.nan)
    precision = _ratio(true, true + false, 0.0)
    return roc, _ratio((rise * precision).sum(-1), positives, np.nan)


def _calibration_error(confidence: np.ndarray, correct: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Expected calibration error over equal-width bins of the confidence (Guo et al. 2017, eq. 3)."""
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)[1:-1]
    member = np.eye(CALIBRATION_BINS)[np.digitize(confidence, edges, right=True)]
    gap = weights @ (member * (correct - confidence)[:, None])
    return np.abs(gap).sum(-1) / weights.sum(-1)
