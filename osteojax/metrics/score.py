"""All registered metrics of a set of predictions, with or without intervals."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from osteojax.metrics.bootstrap import patient_weights, with_interval
from osteojax.metrics.predictions import Predictions
from osteojax.metrics.registry import METRICS, scalars


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
        seed: of the resampling.

    Returns:
        Plain JSON types; each scalar is {"value": v, "ci95": [lo, hi]}. A value that the data do not define (the
        recall of a class without examples) is None, and so is the interval where all examples are one patient's.
    """
    given = Predictions(logits, labels, patient_weights(patients, seed=seed))
    result: dict[str, Any] = {
        "n": len(labels),
        "patients": len(set(map(str, patients))),
        "per_class": {name: {} for name in class_names},
        "confusion_matrix": given.confusion[0].astype(int).tolist(),
    }
    for key, metric in METRICS.members.items():
        values = metric.function(given)
        if metric.form == "scalar":
            result[key] = with_interval(values)
            continue
        of_class = {name: with_interval(values[:, c]) for c, name in enumerate(class_names)}
        if metric.form == "by_class":
            result[key] = of_class
        else:
            for name, entry in of_class.items():
                result["per_class"][name][key] = entry
    for c, name in enumerate(class_names):
        result["per_class"][name]["support"] = int((labels == c).sum())
    return result
