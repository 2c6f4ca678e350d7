"""Precision."""

import numpy as np

from osteojax.metrics.predictions import Predictions, ratio
from osteojax.metrics.registry import metric


@metric("precision", form="per_class")
def precision(given: Predictions) -> np.ndarray:
    """(R, C) hits over predictions; 0 for a class that is never predicted (scikit-learn's zero_division=0)."""
    return ratio(given.hits, given.confusion.sum(1), 0.0)
