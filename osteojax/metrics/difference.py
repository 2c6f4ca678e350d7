"""Differences that are paired: the same patients are drawn for both (Efron and Tibshirani 1993, ch. 8 and 16)."""

from collections.abc import Mapping

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


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """P-values corrected for their number (Holm 1979)."""
    corrected: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p, key=lambda name: p[name])):
        largest = max(largest, min(1.0, (len(p) - rank) * p[name]))
        corrected[name] = largest
    return corrected


def with_interval(value: float | None, low: float | None, high: float | None, *, sign: bool = False) -> str:
    """A value with its interval, for a cell of a table: "0.512 [0.430, 0.594]"; "-" for what is not known."""
    if value is None:
        return "-"
    form = "+.3f" if sign else ".3f"
    interval = "-" if low is None or high is None else f"{low:{form}}, {high:{form}}"
    return f"{value:{form}} [{interval}]"
