"""Recall."""

import numpy as np

from osteojax.metrics import intervals
from osteojax.metrics.predictions import Predictions, ratio
from osteojax.metrics.registry import metric


def _counts(given: Predictions) -> tuple[np.ndarray, np.ndarray]:
    return given.true * given.guessed, given.true


@metric("recall", interval=intervals.proportion(_counts), form="per_class")
def recall(given: Predictions) -> np.ndarray:
    """(R, C) hits over examples; not defined for a class without examples."""
    return ratio(given.hits, given.confusion.sum(2), np.nan)
