"""Area under the precision-recall curve."""

import numpy as np

from osteojax.metrics.predictions import Predictions
from osteojax.metrics.registry import metric


@metric("pr_auc", form="by_class")
def pr_auc(given: Predictions) -> np.ndarray:
    """(R, C) average precision of each class against the rest."""
    return given.areas[1]
