"""Matthews' correlation coefficient."""

import numpy as np

from osteojax.metrics import intervals
from osteojax.metrics.predictions import Predictions, ratio
from osteojax.metrics.registry import metric


@metric("mcc", interval=intervals.studentised("correlation"))
def mcc(given: Predictions) -> np.ndarray:
    """(R,) correlation of true and predicted classes (Gorodkin 2004, eq. 8); 0 where either is constant."""
    confusion = given.confusion
    total, hits = confusion.sum((1, 2)), given.hits.sum(-1)
    true, guessed = confusion.sum(2), confusion.sum(1)
    covariance = hits * total - (true * guessed).sum(-1)
    product = (total**2 - (guessed**2).sum(-1)) * (total**2 - (true**2).sum(-1))
    return ratio(covariance, np.sqrt(np.maximum(product, 0)), 0.0)
