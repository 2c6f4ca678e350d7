"""Expected calibration error, and one without the bias that small bins have."""

import numpy as np

from osteojax.metrics import intervals
from osteojax.metrics.predictions import Predictions, ratio
from osteojax.metrics.registry import metric

BINS = 15


def bin_of(given: Predictions) -> np.ndarray:
    """(N,) the bin of each example's confidence, 0 to 14, of equal width."""
    edges = np.linspace(0, 1, BINS + 1)[1:-1]
    return np.digitize(given.probabilities.max(-1), edges, right=True)


def _member(given: Predictions) -> np.ndarray:
    """(N, bins) 1 for the bin of each example."""
    return np.eye(BINS)[bin_of(given)]


def _gaps(given: Predictions) -> np.ndarray:
    """(N, bins) what each example adds to its bin's gap between accuracy and confidence."""
    right = given.predicted == given.labels
    return _member(given) * (right - given.probabilities.max(-1))[:, None]


@metric("ece", interval=intervals.of_binned_gaps(_gaps, 1), direction="min")
def ece(given: Predictions) -> np.ndarray:
    """(R,) expected calibration error over equal-width bins of the confidence (Guo et al. 2017, eq. 3)."""
    return np.abs(given.weights @ _gaps(given)).sum(-1) / given.weights.sum(-1)


@metric("calibration_error_debiased", interval=intervals.of_binned_gaps(_gaps, 2), direction="min")
def calibration_error_debiased(given: Predictions) -> np.ndarray:
    """(R,) root of the mean squared gap of the same bins, less what chance alone would add (Kumar et al. 2019, eq. 6).

    A bin of one example says nothing of its own error and is left out of the sum; below 0 it counts as 0.
    """
    right = (given.predicted == given.labels).astype(float)
    member = _member(given)
    count = given.weights @ member
    accuracy = ratio(given.weights @ (member * right[:, None]), count, 0.0)
    gap = ratio(given.weights @ _gaps(given), count, 0.0)
    chance = ratio(accuracy * (1 - accuracy), count - 1, 0.0)
    squared = np.where(count > 1, count * (gap**2 - chance), 0).sum(-1) / given.weights.sum(-1)
    return np.sqrt(np.maximum(squared, 0))
