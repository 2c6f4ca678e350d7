"""Cross-entropy."""

import numpy as np

from osteojax.metrics import intervals
from osteojax.metrics.predictions import Predictions
from osteojax.metrics.registry import metric


@metric("cross_entropy", interval=intervals.studentised("positive"), direction="min")
def cross_entropy(given: Predictions) -> np.ndarray:
    """(R,) mean negative log-probability of the true class, in nats: no class weights, no label smoothing."""
    return given.mean(-given.log_likelihood)
