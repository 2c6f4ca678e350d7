"""Areas under the ROC curve."""

import numpy as np

from osteojax.metrics import intervals
from osteojax.metrics.predictions import Predictions
from osteojax.metrics.registry import metric


@metric("auc_ovr", interval=intervals.area, form="by_class")
def auc_ovr(given: Predictions) -> np.ndarray:
    """(R, C) area under the ROC curve of each class against the rest."""
    return given.areas[0]


@metric("auc_ovr_macro", interval=intervals.mean_area)
def auc_ovr_macro(given: Predictions) -> np.ndarray:
    """(R,) mean of `auc_ovr`; not defined where one of the classes has no examples."""
    return np.mean(given.areas[0], axis=-1)
