"""Percentile bootstrap over patients, for paired differences and bands.

Images of one patient are not independent, so patients are drawn, not images (Efron and Tibshirani 1993, ch. 8 and 13).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from osteojax.metrics.intervals import LEVEL
from osteojax.metrics.sample import DRAWS


def patient_weights(
    patients: Sequence[str], *, seed: int, resamples: int = DRAWS
) -> Float[np.ndarray, "weightings n"]:
    """How often each example counts: once in row 0, as often as its patient was drawn in the others.

    Args:
        patients: (N,) the resampling unit of each example.
        seed: of the draws.
        resamples: number of draws.

    Returns:
        (1 + resamples, N) float64. With one patient alone there is nothing to draw from: (1, N).
    """
    _, unit = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    units = int(unit.max()) + 1
    itself = np.ones((1, len(unit)))
    if units == 1:
        return itself
    draws = np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), size=resamples)
    return np.concatenate([itself, draws[:, unit]])


def with_interval(samples: Float[np.ndarray, " weightings"]) -> dict[str, Any]:
    """A value and its 95 % interval.

    Args:
        samples: (1 + resamples,): the value, then that of each resample; NaN where a resample does not define it.

    Returns:
        {"value": v, "ci95": [lo, hi]}; None for what the data do not define. Without resamples there is no interval.
    """
    value, resampled = samples[0], samples[1:][np.isfinite(samples[1:])]
    if not np.isfinite(value):
        return {"value": None, "ci95": [None, None]}
    if not len(resampled):
        return {"value": float(value), "ci95": [None, None]}
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(resampled, [tail, 100 - tail])
    return {"value": float(value), "ci95": [float(low), float(high)]}
