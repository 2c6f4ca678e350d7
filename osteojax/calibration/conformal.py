"""Conformal prediction sets: the classes that an image may be, right in a stated share of cases.

MAPIE does the conformal part. Split conformal sets hold on average over images like those of validation (Vovk,
Gammerman and Shafer 2005), those by class within each class as well (Vovk 2012).
"""

import dataclasses
import math
import warnings
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from mapie.classification import SplitConformalClassifier
from sklearn.base import BaseEstimator, ClassifierMixin

COVERAGE = 0.9
METHODS = ("lac", "aps", "by_class")


class _Given(ClassifierMixin, BaseEstimator):
    """A classifier whose input is what it says: MAPIE wants an estimator, and ours has spoken already."""

    def __init__(self, classes: int) -> None:
        self.classes = classes

    @property
    def classes_(self) -> np.ndarray:
        """The class numbers."""
        return np.arange(self.classes)

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def fit(self, X: np.ndarray, y: Any = None) -> "_Given":
        """Nothing to do."""
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """(N,) the likeliest class."""
        return X.argmax(-1)

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """The probabilities given."""
        return X


@dataclasses.dataclass(frozen=True)
class ConformalSets:
    """Prediction sets calibrated on validation examples.

    Attributes:
        probabilities: (N, C) of the validation examples.
        labels: (N,) of them.
        coverage: the share in which a set should hold the true class.
    """

    probabilities: Float[np.ndarray, "n classes"]
    labels: Int[np.ndarray, " n"]
    coverage: float = COVERAGE

    @property
    def needed(self) -> int:
        """Fewest examples from which MAPIE gives sets of such a coverage."""
        return math.floor(round(1 / (1 - self.coverage), 9)) + 1

    def sets(
        self, probabilities: Float[np.ndarray, "m classes"], method: str
    ) -> Bool[np.ndarray, "m classes"]:
        """The classes that each of M examples may be.

        Args:
            probabilities: of the M examples, calibrated as those of validation were.
            method: "lac" (least ambiguous classes, Sadinle et al. 2019), "aps" (adaptive, Romano et al. 2020), or
                "by_class": LAC with a threshold of each class's own. Where too few validation examples are at hand to
                say anything, all classes.
        """
        classes = probabilities.shape[-1]
        if method != "by_class":
            return self._of(np.ones(len(self.labels), bool), probabilities, method)
        columns = [self._of(self.labels == c, probabilities, "lac")[:, c] for c in range(classes)]
        return np.stack(columns, -1)

    def _of(self, among: np.ndarray, probabilities: np.ndarray, method: str) -> np.ndarray:
        if among.sum() < self.needed:
            return np.ones(probabilities.shape, bool)
        classifier = SplitConformalClassifier(
            _Given(probabilities.shape[-1]),
            confidence_level=self.coverage,
            conformity_score=method,
            prefit=True,
            random_state=0,
        )
        with warnings.catch_warnings():  # of labels that are not there: one class at a time is meant
            warnings.filterwarnings("ignore", "WARNING: your conformalization dataset has less labels")
            classifier.conformalize(self.probabilities[among], self.labels[among])
        return np.asarray(classifier.predict_set(probabilities)[1][..., 0], bool)
