"""All registered metrics of a set of predictions, with or without intervals."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from osteojax.metrics.predictions import Predictions
from osteojax.metrics.registry import METRICS, Metric, scalars
from osteojax.metrics.sample import Sample

# Less is rounding.
_NO_WIDTH = 1e-9


def validation_metrics(
    logits: Float[np.ndarray, "n classes"], labels: Int[np.ndarray, " n"]
) -> dict[str, float]:
    """Every scalar metric of logits (N, C) against labels (N,); NaN where the data do not define it."""
    given = Predictions.unweighted(logits, labels)
    return {name: float(metric.function(given)[0]) for name, metric in scalars().items()}


def score_predictions(
    logits: Float[np.ndarray, "n classes"],
    labels: Int[np.ndarray, " n"],
    patients: Sequence[str],
    class_names: Sequence[str],
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """The metrics of metrics.json.

    Point values follow scikit-learn's definitions and are tested against it.

    Args:
        logits: (N, C).
        labels: (N,) int in 0 .. C - 1.
        patients: (N,) the resampling unit of each example.
        class_names: C names, in label order.
        seed: of the draws, for the intervals that need some.

    Returns:
        Plain JSON types; each scalar is {"value": v, "ci95": [lo, hi]}. A value that the data do not define (the
        recall of a class without examples) is None, and so is the interval where all examples are one patient's.
    """
    return score_sample(Sample.of(logits, labels, patients, seed=seed), class_names)


def score_sample(sample: Sample, class_names: Sequence[str]) -> dict[str, Any]:
    """Likewise, of a sample that is there already."""
    given, labels = sample.given, sample.given.labels
    result: dict[str, Any] = {
        "n": len(labels),
        "patients": sample.patients,
        "per_class": {name: {} for name in class_names},
        "confusion_matrix": given.confusion[0].astype(int).tolist(),
    }
    for key, metric in METRICS.members.items():
        entries = with_intervals(metric, sample)
        if metric.form == "scalar":
            result[key] = entries[0]
            continue
        of_class = dict(zip(class_names, entries, strict=True))
        if metric.form == "by_class":
            result[key] = of_class
        else:
            for name, entry in of_class.items():
                result["per_class"][name][key] = entry
    for c, name in enumerate(class_names):
        result["per_class"][name]["support"] = int((labels == c).sum())
    return result


def with_intervals(metric: Metric, sample: Sample) -> list[dict[str, Any]]:
    """The metric's values for a sample, each {"value": v, "ci95": [lo, hi]}; one, or one for each class.

    What the data do not define is None, and so is an interval that nothing is known of: of one patient alone, or of no
    width, as of a correlation where all are one class.
    """
    values = np.ravel(metric.function(sample.given)[0])
    ends = np.full((len(values), 2), np.nan)
    if sample.patients > 1:
        ends = metric.interval(sample, metric.function, values)
        ends[~(ends[:, 1] - ends[:, 0] > _NO_WIDTH)] = np.nan
    return [
        {"value": _number(value), "ci95": [_number(end) if np.isfinite(value) else None for end in pair]}
        for value, pair in zip(values, ends, strict=True)
    ]


def _number(x: float) -> float | None:
    return float(x) if np.isfinite(x) else None
