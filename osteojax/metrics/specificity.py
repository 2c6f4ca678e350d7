"""Specificity."""

import numpy as np

from osteojax.metrics import intervals
from osteojax.metrics.predictions import Predictions, ratio
from osteojax.metrics.registry import metric


def _counts(given: Predictions) -> tuple[np.ndarray, np.ndarray]:
    return (1 - given.true) * (1 - given.guessed), 1 - given.true


@metric("specificity", interval=intervals.proportion(_counts), form="per_class")
def specificity(given: Predictions) -> np.ndarray:
    """(R, C) share of the examples of other classes that are not called this class."""
    confusion = given.confusion
    others = confusion.sum((1, 2))[:, None] - confusion.sum(2)
    called = confusion.sum(1) - given.hits
    return ratio(others - called, others, np.nan)
