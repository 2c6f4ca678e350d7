"""Brier score."""

import numpy as np

from osteojax.metrics import intervals
from osteojax.metrics.predictions import Predictions
from osteojax.metrics.registry import metric


@metric("brier", interval=intervals.studentised("positive"), direction="min")
def brier(given: Predictions) -> np.ndarray:
    """(R,) mean squared distance of the probabilities from the truth, summed over classes (Brier 1950), 0 to 2."""
    return given.mean(((given.probabilities - given.true) ** 2).sum(-1))
