"""A T-score by regression, and the class that is read from it."""

import dataclasses
from typing import Any

import numpy as np
from scipy.stats import norm
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline

from osteojax.baselines.classifiers.logistic import columns
from osteojax.baselines.classifiers.registry import CLASSIFIERS
from osteojax.baselines.sources.registry import Table

_ALPHA = np.logspace(-1, 5, 7)


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """Where one class ends and the next begins, from the first class down.

    The World Health Organization's (1994): osteopenia from below -1, osteoporosis from -2.5 on.
    """

    thresholds: tuple[float, ...] = (-1.0, -2.5)


class ThresholdedRidge(ClassifierMixin, BaseEstimator):
    """Ridge regression of a number t; P(class) is the share of N(predicted t, sigma^2) between two thresholds.

    Args:
        transform: of features, learned from the training images.
        alpha: strength of the penalty.
        thresholds: descending, one less than there are classes; class 0 lies above the first.
    """

    def __init__(self, transform: Any, alpha: float = 1.0, thresholds: tuple[float, ...] = ()) -> None:
        self.transform, self.alpha, self.thresholds = transform, alpha, thresholds

    def fit(self, x: np.ndarray, y: np.ndarray, target: np.ndarray) -> "ThresholdedRidge":
        """Learns `target` (N,) from features (N, F). Of the classes y (N,) there must be one more than thresholds.

        sigma is the deviation of out-of-fold predictions: that of the fit itself would be too small.
        """
        self.classes_ = np.unique(y)
        model = make_pipeline(clone(self.transform), Ridge(self.alpha))
        folds = KFold(min(5, len(target)), shuffle=True, random_state=0)
        self.sigma_ = float(np.std(target - cross_val_predict(model, x, target, cv=folds)))
        self.model_ = model.fit(x, target)
        return self

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        """(N, C)."""
        t = self.model_.predict(x)[:, None]
        above = norm.sf(np.asarray(self.thresholds), t, max(self.sigma_, 1e-6))
        ends = np.concatenate([np.zeros_like(t), above, np.ones_like(t)], axis=1)
        return np.diff(ends, axis=1)


@CLASSIFIERS.function("thresholded", settings=Thresholds)
def thresholded(
    features: Table, balanced: bool, seed: int, settings: Thresholds
) -> tuple[Any, dict[str, list[Any]]]:
    """A row that names it names the column of the number too, as `target`; classes count as often as they occur."""
    del balanced, seed
    model = ThresholdedRidge(columns(features), thresholds=settings.thresholds)
    return model, {"alpha": _ALPHA.tolist()}
