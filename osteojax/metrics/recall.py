"""Recall."""

import numpy as np

from osteojax.metrics.predictions import Predictions, ratio
from osteojax.metrics.registry import metric


@metric("recall", form="per_class")
def recall(given: Predictions) -> np.ndarray:
    """(R, C) hits over examples; not defined for a class without examples."""
    return ratio(given.hits, given.confusion.sum(2), np.nan)
