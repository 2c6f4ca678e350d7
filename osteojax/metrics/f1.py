"""F1 by class, and its mean."""

import numpy as np

from osteojax.metrics import intervals
from osteojax.metrics.predictions import Predictions, ratio
from osteojax.metrics.registry import metric


def _counts(given: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Of the images that are or are called of a class, those that are both: Jaccard's index, of which F1 rises."""
    return given.true * given.guessed, np.maximum(given.true, given.guessed)


@metric("f1", interval=intervals.proportion(_counts, lambda j: 2 * j / (1 + j)), form="per_class")
def f1(given: Predictions) -> np.ndarray:
    """(R, C) harmonic mean of precision and recall; not defined for a class neither present nor predicted."""
    return ratio(2 * given.hits, given.confusion.sum(2) + given.confusion.sum(1), np.nan)


@metric("macro_f1", interval=intervals.studentised("share"), headline=True)
def macro_f1(given: Predictions) -> np.ndarray:
    """(R,) mean F1 over the classes that are present or predicted, as in scikit-learn."""
    present = (given.confusion.sum(2) + given.confusion.sum(1)) > 0
    return ratio(np.where(present, f1(given), 0).sum(-1), present.sum(-1), np.nan)
