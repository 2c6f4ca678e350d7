"""Agreement of ordered classes."""

import numpy as np

from osteojax.metrics import intervals
from osteojax.metrics.predictions import Predictions, ratio
from osteojax.metrics.registry import metric


@metric("quadratic_weighted_kappa", interval=intervals.studentised("correlation"))
def quadratic_weighted_kappa(given: Predictions) -> np.ndarray:
    """(R,) Cohen 1968 with weights (i - j)^2: the classes are ordered."""
    confusion = given.confusion
    cost = (np.arange(given.classes)[:, None] - np.arange(given.classes)) ** 2
    total = confusion.sum((1, 2))
    expected = confusion.sum(2)[:, :, None] * confusion.sum(1)[:, None, :] / total[:, None, None]
    return 1 - ratio((cost * confusion).sum((1, 2)), (cost * expected).sum((1, 2)), np.nan)
