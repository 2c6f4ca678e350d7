"""Predictions under one or many weightings of the examples, and what several metrics share of them."""

import dataclasses
import functools

import numpy as np
from jaxtyping import Float, Int
from scipy.special import log_softmax, softmax


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a classifier said of N examples, under R weightings.

    A bootstrap resample is a vector of how often each example was drawn, so a metric is computed once for all
    resamples with example weights; the data themselves are the weighting of ones.

    Attributes:
        logits: (N, C).
        labels: (N,) int in 0 .. C - 1.
        weights: (R, N) float, at least 0.
    """

    logits: Float[np.ndarray, "n classes"]
    labels: Int[np.ndarray, " n"]
    weights: Float[np.ndarray, "weightings n"]

    @classmethod
    def unweighted(
        cls, logits: Float[np.ndarray, "n classes"], labels: Int[np.ndarray, " n"]
    ) -> "Predictions":
        """One weighting: each example once."""
        return cls(logits, labels, np.ones((1, len(labels))))

    def weighted(self, weights: Float[np.ndarray, "weightings n"]) -> "Predictions":
        """The same predictions under other weightings (R, N)."""
        return Predictions(self.logits, self.labels, weights)

    @property
    def classes(self) -> int:
        """C."""
        return self.logits.shape[-1]

    @functools.cached_property
    def predicted(self) -> np.ndarray:
        """(N,) the class with the largest logit; of equals the first."""
        return self.logits.argmax(-1)

    @functools.cached_property
    def true(self) -> np.ndarray:
        """(N, C) 1 for the class of each example, else 0."""
        return np.eye(self.classes)[self.labels]

    @functools.cached_property
    def guessed(self) -> np.ndarray:
        """(N, C) 1 for the class that was predicted, else 0."""
        return np.eye(self.classes)[self.predicted]

    @functools.cached_property
    def probabilities(self) -> np.ndarray:
        """(N, C) float64."""
        return softmax(self.logits.astype(np.float64), axis=-1)

    @functools.cached_property
    def log_likelihood(self) -> np.ndarray:
        """(N,) float64, log-probability of the true class in nats."""
        return log_softmax(self.logits.astype(np.float64), axis=-1)[np.arange(len(self.labels)), self.labels]

    @functools.cached_property
    def confusion(self) -> np.ndarray:
        """(R, C, C) weighted counts; rows are true classes, columns predicted ones."""
        cell = np.eye(self.classes**2)[self.labels * self.classes + self.predicted]
        return (self.weights @ cell).reshape(-1, self.classes, self.classes)

    @functools.cached_property
    def hits(self) -> np.ndarray:
        """(R, C) weight of the examples of each class that were recognised."""
        return np.diagonal(self.confusion, axis1=1, axis2=2)

    @functools.cached_property
    def areas(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each class against the rest: area under the ROC curve and average precision, (R, C) each."""
        of_class = [
            _areas(self.probabilities[:, c], self.labels == c, self.weights) for c in range(self.classes)
        ]
        roc, precision_recall = zip(*of_class, strict=True)
        return np.stack(roc, -1), np.stack(precision_recall, -1)

    def mean(self, per_example: np.ndarray) -> np.ndarray:
        """(R,) weighted means of a quantity (N,)."""
        return self.weights @ per_example / self.weights.sum(-1)


def ratio(numerator: np.ndarray, denominator: np.ndarray, empty: float) -> np.ndarray:
    """numerator / denominator, and `empty` where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(np.shape(numerator), empty), where=denominator > 0)


def _areas(score: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Areas under the ROC curve and the precision-recall curve (average precision), (R,) each.

    Thresholds are the distinct scores, as in scikit-learn: tied examples cross a threshold together.
    """
    order = np.argsort(-score, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
    ordered = weights[:, order]
    true = np.cumsum(ordered * positive[order], -1)[:, ends]
    false = np.cumsum(ordered * ~positive[order], -1)[:, ends]
    positives, negatives = true[:, -1], false[:, -1]
    zero = np.zeros((len(weights), 1))
    rise = np.diff(true, prepend=zero)
    run = np.diff(false, prepend=zero)
    roc = ratio((run * (true - rise / 2)).sum(-1), positives * negatives, np.nan)
    precision = ratio(true, true + false, 0.0)
    return roc, ratio((rise * precision).sum(-1), positives, np.nan)
