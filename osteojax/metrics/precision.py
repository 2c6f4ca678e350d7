"""Precision."""

import numpy as np

from osteojax.metrics import intervals
from osteojax.metrics.predictions import Predictions, ratio
from osteojax.metrics.registry import metric


def _counts(given: Predictions) -> tuple[np.ndarray, np.ndarray]:
    return given.true * given.guessed, given.guessed


@metric("precision", interval=intervals.proportion(_counts), form="per_class")
def precision(given: Predictions) -> np.ndarray:
    """(R, C) hits over predictions; 0 for a class that is never predicted (scikit-learn's zero_division=0)."""
    return ratio(given.hits, given.confusion.sum(1), 0.0)
