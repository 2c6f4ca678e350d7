"""Accuracy."""

import numpy as np

from osteojax.metrics.predictions import Predictions
from osteojax.metrics.registry import metric


@metric("accuracy", headline=True)
def accuracy(given: Predictions) -> np.ndarray:
    """(R,) share of the examples that were recognised."""
    return given.hits.sum(-1) / given.confusion.sum((1, 2))
