"""How far predicted T-scores are from those that were measured."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from osteojax.metrics import intervals
from osteojax.metrics.sample import Sample


def score_t_scores(
    predicted: Float[np.ndarray, " n"], measured: Float[np.ndarray, " n"], patients: Sequence[str]
) -> dict[str, Any]:
    """Mean absolute error and mean error (predicted less measured), in T-scores, with 95 % intervals over patients.

    Args:
        predicted: (N,).
        measured: (N,), NaN where there is none; those images do not count.
        patients: (N,) names.

    Returns:
        JSON: `n` images, `mae` and `bias` as {"value", "ci95"}; None where nothing was measured.
    """
    known = np.isfinite(measured)
    found: dict[str, Any] = {"n": int(known.sum())}
    if not known.any():
        nothing = {"value": None, "ci95": [None, None]}
        return found | {"mae": nothing, "bias": nothing}
    error = (predicted - measured)[known].astype(np.float64)
    names = [name for name, one in zip(patients, known, strict=True) if one]
    # What is predicted of the class has no say.
    sample = Sample.of(np.zeros((len(error), 1)), np.zeros(len(error), int), names)
    ends = {
        "mae": (np.abs(error), intervals.positive_mean(sample, np.abs(error))),
        "bias": (error, intervals.mean(sample, error)),
    }
    return found | {
        name: {
            "value": float(values.mean()),
            "ci95": [end if np.isfinite(end) else None for end in interval],
        }
        for name, (values, interval) in ends.items()
    }
