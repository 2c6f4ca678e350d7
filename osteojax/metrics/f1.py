"""F1 by class, and its mean."""

import numpy as np

from osteojax.metrics.predictions import Predictions, ratio
from osteojax.metrics.registry import metric


@metric("f1", form="per_class")
def f1(given: Predictions) -> np.ndarray:
    """(R, C) harmonic mean of precision and recall; not defined for a class neither present nor predicted."""
    return ratio(2 * given.hits, given.confusion.sum(2) + given.confusion.sum(1), np.nan)


@metric("macro_f1", headline=True)
def macro_f1(given: Predictions) -> np.ndarray:
    """(R,) mean F1 over the classes that are present or predicted, as in scikit-learn."""
    present = (given.confusion.sum(2) + given.confusion.sum(1)) > 0
    return ratio(np.where(present, f1(given), 0).sum(-1), present.sum(-1), np.nan)
