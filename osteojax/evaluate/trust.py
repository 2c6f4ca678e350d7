"""What an evaluation says beyond its table: calibration, sets, two-class questions, subgroups, curves with bands."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import logit
from sklearn.metrics import roc_auc_score

from osteojax.calibration import thresholds
from osteojax.calibration.conformal import METHODS
from osteojax.metrics import intervals
from osteojax.metrics.ece import bin_of
from osteojax.metrics.registry import METRICS
from osteojax.metrics.sample import Sample
from osteojax.metrics.score import with_intervals
from osteojax.run.fitted import Calibrated

Entry = dict[str, Any]
_CALIBRATION = ("ece", "calibration_error_debiased", "brier", "cross_entropy")
_OF_SUBGROUPS = ("accuracy", "balanced_accuracy", "quadratic_weighted_kappa")
# A subgroup with fewer patients is told, with a warning: its interval is too wide to compare anything.
FEW_PATIENTS = 30
_BANDS = np.linspace(0, 1, 41)
_DRAWS = 500
_CLIP = 1e-12


def share_entry(sample: Sample, hits: np.ndarray, among: np.ndarray) -> Entry:
    """The share of the images among which something is so, (N,) booleans each, with its interval over patients."""
    of = among.sum()
    if not of:
        return {"value": None, "ci95": [None, None], "n": 0}
    low, high = intervals.share(
        sample.by_patient((hits & among).astype(float)), sample.by_patient(among.astype(float))
    )
    return {"value": float((hits & among).sum() / of), "ci95": [low, high], "n": int(of)}


def calibration(sample: Sample, logits: np.ndarray, temperature: float | None) -> dict[str, Any]:
    """Calibration errors of the probabilities as the network gives them, and after temperature scaling."""
    result: dict[str, Any] = {"temperature": temperature, "before": _calibration_of(sample)}
    if temperature is not None:
        result["after"] = _calibration_of(sample.with_logits(logits / temperature))
    return result


def _calibration_of(sample: Sample) -> dict[str, Any]:
    found: dict[str, Any] = {name: with_intervals(METRICS.get(name), sample)[0] for name in _CALIBRATION}
    return found | {"reliability": reliability(sample)}


def cox(probability: np.ndarray, outcome: np.ndarray) -> tuple[float, float]:
    """Calibration intercept (at slope 1) and slope: of a logistic regression of outcomes on predicted log-odds (Cox
    1958). 0 and 1 where probabilities are what they say."""
    log_odds = logit(np.clip(probability, _CLIP, 1 - _CLIP))

    def loss(parameters: np.ndarray, scale: float | None = None) -> float:
        slope = parameters[1] if scale is None else scale
        linear = parameters[0] + slope * log_odds
        return float(np.mean(np.logaddexp(0, linear) - outcome * linear))

    both = minimize(loss, np.array([0.0, 1.0]), method="BFGS").x
    alone = minimize(loss, np.array([0.0]), args=(1.0,), method="BFGS").x
    return float(alone[0]), float(both[1])


def reliability(sample: Sample) -> list[Entry]:
    """Of each bin of confidence that holds an image: mean confidence, and accuracy with its interval."""
    confidence = sample.given.probabilities.max(-1)
    right = sample.given.predicted == sample.given.labels
    of = bin_of(sample.given)
    return [
        {"confidence": float(confidence[of == b].mean()), **share_entry(sample, right, of == b)}
        for b in np.unique(of)
    ]


def conformal(
    sample: Sample, fitted: Calibrated, logits: np.ndarray, class_names: Sequence[str]
) -> dict[str, Any]:
    """How often the sets of each method hold the true class, in all and by class, and how many classes they name."""
    sets = fitted.conformal
    result: dict[str, Any] = {"asked_for": sets.coverage, "validation_images": len(sets.labels)}
    probabilities, labels = fitted.probabilities(logits), sample.given.labels
    for method in METHODS:
        held = sets.sets(probabilities, method)
        right = held[np.arange(len(labels)), labels]
        result[method] = {
            "coverage": share_entry(sample, right, np.ones(len(labels), bool)),
            "by_class": {name: share_entry(sample, right, labels == c) for c, name in enumerate(class_names)},
            "mean_size": float(held.sum(-1).mean()),
            "of_one_class": float((held.sum(-1) == 1).mean()),
            "empty": float((held.sum(-1) == 0).mean()),
        }
    return result


def questions(sample: Sample, probabilities: np.ndarray, fitted: Calibrated | None) -> dict[str, Any]:
    """Two-class views of three ordered classes: AUC, operating points chosen on validation, net benefit."""
    if sample.given.classes != 3:
        return {}
    found = {}
    for question in thresholds.QUESTIONS:
        score, positive = thresholds.answers(probabilities, sample.given.labels, question)
        found[question] = _question(sample, score, positive)
        if fitted is None:
            continue
        at_hand = thresholds.answers(fitted.probabilities(fitted.logits), fitted.labels, question)
        for name, choose in (
            ("at_specificity_90", thresholds.at_specificity),
            ("at_sensitivity_90", thresholds.at_sensitivity),
        ):
            chosen = choose(*at_hand)
            found[question][name] = {
                "threshold_from_validation": chosen if np.isfinite(chosen) else None,
                "sensitivity": share_entry(sample, score >= chosen, positive),
                "specificity": share_entry(sample, score < chosen, ~positive),
            }
    return found


def _question(sample: Sample, score: np.ndarray, positive: np.ndarray) -> dict[str, Any]:
    both = positive.any() and not positive.all()
    ends = intervals.area_between(sample, score, positive) if both else (None, None)
    at = np.round(np.linspace(0.01, 0.99, 99), 2)
    return {
        "positives": int(positive.sum()),
        "calibration": dict(zip(("intercept", "slope"), cox(score, positive), strict=True)) if both else None,
        "auc": {"value": float(roc_auc_score(positive, score)) if both else None, "ci95": list(ends)},
        "decision_curve": {
            "threshold": at.tolist(),
            "model": thresholds.net_benefit(score, positive, at).tolist(),
            "treat_all": thresholds.treat_all(positive, at).tolist(),
        },
    }


def subgroups(sample: Sample, columns: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """A few metrics for each value of each metadata column; numbers in quartiles (age in decades).

    A column with one value, or with one for almost every image, tells nothing and is left out.
    """
    found = {}
    for column, values in columns.items():
        groups = np.asarray(_groups(column, values), dtype=object)
        names = sorted({name for name in groups if name})
        if not 2 <= len(names) <= 20:
            continue
        found[column] = {name: _subgroup(sample, groups == name) for name in names}
    return found


def _subgroup(sample: Sample, among: np.ndarray) -> dict[str, Any]:
    part = Sample.of(
        sample.given.logits[among], sample.given.labels[among], list(map(str, sample.patient[among]))
    )
    return {
        "n": int(among.sum()),
        "patients": part.patients,
        "few": part.patients < FEW_PATIENTS,
        **{name: with_intervals(METRICS.get(name), part)[0] for name in _OF_SUBGROUPS},
    }


def _groups(column: str, values: Sequence[Any]) -> list[str]:
    texts = [value.decode() if isinstance(value, bytes) else value for value in values]
    if not all(isinstance(text, float | int | np.number) for text in texts):
        return [str(text).strip() for text in texts]
    numbers = np.asarray(texts, float)
    known = np.isfinite(numbers)
    if len(np.unique(numbers[known])) <= 6:
        return [f"{x:g}" if np.isfinite(x) else "" for x in numbers]
    if "age" in column.lower():
        return [
            f"{int(x // 10) * 10:03d}-{int(x // 10) * 10 + 9:03d}" if np.isfinite(x) else "" for x in numbers
        ]
    cuts = np.unique(np.quantile(numbers[known], [0.25, 0.5, 0.75]))
    names = [f"quartile {i + 1}" for i in range(len(cuts) + 1)]
    return [names[int(np.searchsorted(cuts, x))] if np.isfinite(x) else "" for x in numbers]


def curves(sample: Sample, class_names: Sequence[str]) -> dict[str, Any]:
    """ROC and precision-recall curve of each class against the rest, with pointwise 95 % bands over patients."""
    weights = sample.weightings(_DRAWS)
    return {
        name: _curves(sample.given.probabilities[:, c], sample.given.labels == c, weights)
        for c, name in enumerate(class_names)
        if (sample.given.labels == c).any() and (sample.given.labels != c).any()
    }


def _curves(score: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    order = np.argsort(-score, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
    true = np.cumsum(weights[:, order] * positive[order], -1)[:, ends]
    false = np.cumsum(weights[:, order] * ~positive[order], -1)[:, ends]
    defined = (true[:, -1] > 0) & (false[:, -1] > 0)
    true, false = true[defined], false[defined]
    sensitivity, fall_out = true / true[:, -1:], false / false[:, -1:]
    precision = true / np.maximum(true + false, 1e-300)
    roc = np.stack(
        [
            np.interp(_BANDS, np.append(0, f), np.append(0, s))
            for f, s in zip(fall_out, sensitivity, strict=True)
        ]
    )
    pr = np.stack([np.interp(_BANDS, s, p) for s, p in zip(sensitivity, precision, strict=True)])
    return {
        "roc": _banded(np.append(0, fall_out[0]), np.append(0, sensitivity[0]), roc),
        "precision_recall": _banded(sensitivity[0], precision[0], pr),
        "prevalence": float(positive.mean()),
    }


def _banded(x: np.ndarray, y: np.ndarray, drawn: np.ndarray) -> dict[str, list[float]]:
    low, high = np.percentile(drawn[1:], [2.5, 97.5], axis=0) if len(drawn) > 1 else (drawn[0], drawn[0])
    return {
        "x": x.tolist(), "y": y.tolist(), "at": _BANDS.tolist(), "low": low.tolist(), "high": high.tolist(),
    }  # fmt: skip
