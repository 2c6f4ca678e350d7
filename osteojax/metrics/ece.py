"""Expected calibration error."""

import numpy as np

from osteojax.metrics.predictions import Predictions
from osteojax.metrics.registry import metric

BINS = 15


@metric("ece", direction="min")
def ece(given: Predictions) -> np.ndarray:
    """(R,) expected calibration error over equal-width bins of the confidence (Guo et al. 2017, eq. 3)."""
    confidence, correct = given.probabilities.max(-1), given.predicted == given.labels
    edges = np.linspace(0, 1, BINS + 1)[1:-1]
    member = np.eye(BINS)[np.digitize(confidence, edges, right=True)]
    gap = given.weights @ (member * (correct - confidence)[:, None])
    return np.abs(gap).sum(-1) / given.weights.sum(-1)
