"""Balanced accuracy."""

import numpy as np

from osteojax.metrics import intervals
from osteojax.metrics.predictions import Predictions, ratio
from osteojax.metrics.registry import metric


@metric("balanced_accuracy", interval=intervals.studentised("share"), headline=True)
def balanced_accuracy(given: Predictions) -> np.ndarray:
    """(R,) mean recall over the classes that have examples, as in scikit-learn."""
    true = given.confusion.sum(2)
    recall = ratio(given.hits, true, 0.0)
    return ratio(recall.sum(-1), (true > 0).sum(-1), np.nan)
