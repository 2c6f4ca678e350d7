"""What the order of the classes adds: how far off, and whether worse bones are ranked worse."""

import numpy as np

from osteojax.metrics import intervals
from osteojax.metrics.predictions import Predictions, ratio
from osteojax.metrics.registry import metric


@metric("mean_absolute_class_error", interval=intervals.studentised("positive"), direction="min")
def mean_absolute_class_error(given: Predictions) -> np.ndarray:
    """(R,) mean number of classes between the predicted and the true one."""
    return given.mean(np.abs(given.predicted - given.labels).astype(float))


@metric("c_index", interval=intervals.concordance)
def c_index(given: Predictions) -> np.ndarray:
    """(R,) of two examples of different classes, how often the expected class puts them in order (Harrell 1996); ties
    count half. The expected class is the mean of the class numbers under the probabilities."""
    expected = given.probabilities @ np.arange(given.classes)
    _, rank = np.unique(expected, return_inverse=True)
    ordered = np.zeros(len(given.weights))
    pairs = np.zeros(len(given.weights))
    for lower in range(given.classes - 1):
        for upper in range(lower + 1, given.classes):
            concordant, of = _concordance(rank, given.labels == upper, given.labels == lower, given.weights)
            ordered, pairs = ordered + concordant, pairs + of
    return ratio(ordered, pairs, np.nan)


def _concordance(
    rank: np.ndarray, upper: np.ndarray, lower: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weight of the pairs in order, ties half, and of all pairs, (R,) each."""
    order = np.argsort(rank, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(rank[order]) != 0, True))
    below = np.cumsum(weights[:, order] * lower[order], -1)[:, ends]
    own = np.diff(below, prepend=0.0)
    risen = np.diff(np.cumsum(weights[:, order] * upper[order], -1)[:, ends], prepend=0.0)
    return (risen * (below - own / 2)).sum(-1), risen.sum(-1) * below[:, -1]
