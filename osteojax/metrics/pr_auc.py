"""Area under the precision-recall curve."""

import numpy as np

from osteojax.metrics import intervals
from osteojax.metrics.predictions import Predictions
from osteojax.metrics.registry import metric


@metric("pr_auc", interval=intervals.average_precision, form="by_class")
def pr_auc(given: Predictions) -> np.ndarray:
    """(R, C) average precision of each class against the rest."""
    return given.areas[1]
