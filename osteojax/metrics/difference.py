"""Differences that are paired: the same patients are drawn for both (Efron and Tibshirani 1993, ch. 8 and 16)."""

import numpy as np
from jaxtyping import Float

from osteojax.metrics.intervals import LEVEL

Known = tuple[float | None, float | None, float | None, float | None]


def bootstrapped(differences: Float[np.ndarray, " weightings"]) -> Known:
    """A difference, its 95 % percentile interval, and the two-sided p-value of none.

    Args:
        differences: (1 + draws,): the difference, then that in each draw; NaN where a draw does not define it.

    Returns:
        Value, low, high, p; None for what the data do not define. p is never 0, since there are finitely many draws.
    """
    value, drawn = differences[0], differences[1:][np.isfinite(differences[1:])]
    if not np.isfinite(value):
        return None, None, None, None
    if not len(drawn):
        return float(value), None, None, None
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(drawn, [tail, 100 - tail])
    beyond = min((drawn <= 0).sum(), (drawn >= 0).sum())
    return float(value), float(low), float(high), float(min(1.0, 2 * (beyond + 1) / (len(drawn) + 1)))
