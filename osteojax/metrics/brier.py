"""Brier score."""

import numpy as np

from osteojax.metrics.predictions import Predictions
from osteojax.metrics.registry import metric


@metric("brier", direction="min")
def brier(given: Predictions) -> np.ndarray:
    """(R,) mean squared distance of the probabilities from the truth, summed over classes (Brier 1950), 0 to 2."""
    truth = np.eye(given.classes)[given.labels]
    return given.mean(((given.probabilities - truth) ** 2).sum(-1))
