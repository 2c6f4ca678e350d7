"""Accuracy."""

import numpy as np

from osteojax.metrics import intervals
from osteojax.metrics.predictions import Predictions
from osteojax.metrics.registry import metric


def _counts(given: Predictions) -> tuple[np.ndarray, np.ndarray]:
    hit = (given.true * given.guessed).sum(-1, keepdims=True)
    return hit, np.ones_like(hit)


@metric("accuracy", interval=intervals.proportion(_counts), headline=True)
def accuracy(given: Predictions) -> np.ndarray:
    """(R,) share of the examples that were recognised."""
    return given.hits.sum(-1) / given.confusion.sum((1, 2))
