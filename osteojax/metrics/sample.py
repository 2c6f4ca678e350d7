"""Predictions of a sample of patients: what an interval is computed from."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int

from osteojax.metrics.predictions import Predictions

DRAWS = 2000
# More patients than this are left out in groups, so that memory stays linear in the images.
_GROUPS = 1000
_DRAWS_AT_ONCE = 200


@dataclasses.dataclass(frozen=True)
class Sample:
    """Predictions, each image of them once, and whose image it is.

    Images of one patient are not independent: patients are what is sampled, and what is left out or drawn
    (Efron and Tibshirani 1993, ch. 8).

    Attributes:
        given: of N images, one weighting.
        patient: (N,) int in 0 .. patients - 1.
        seed: of the draws.
    """

    given: Predictions
    patient: Int[np.ndarray, " n"]
    seed: int = 0

    @classmethod
    def of(
        cls,
        logits: Float[np.ndarray, "n classes"],
        labels: Int[np.ndarray, " n"] | Sequence[int],
        patients: Sequence[str],
        *,
        seed: int = 0,
    ) -> "Sample":
        """A sample whose patients have names."""
        _, patient = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
        given = Predictions.unweighted(np.asarray(logits), np.asarray(labels, int))
        return cls(given, patient.reshape(-1), seed)

    def with_logits(self, logits: Float[np.ndarray, "n classes"]) -> "Sample":
        """The same images with other answers."""
        return Sample(Predictions.unweighted(logits, self.given.labels), self.patient, self.seed)

    @functools.cached_property
    def patients(self) -> int:
        """How many there are."""
        return int(self.patient.max()) + 1

    @functools.cached_property
    def without(self) -> Predictions:
        """A weighting for each patient, without whose images it is; of many patients for each of 1,000 groups."""
        groups = min(self.patients, _GROUPS)
        group = np.random.default_rng(self.seed).permutation(self.patients) % groups
        weights = np.ones((groups, len(self.patient)))
        weights[group[self.patient], np.arange(len(self.patient))] = 0
        return self.given.weighted(weights)

    def by_patient(self, x: np.ndarray) -> np.ndarray:
        """(patients, ...) sums of a quantity (N, ...)."""
        total = np.zeros((self.patients, *x.shape[1:]))
        np.add.at(total, self.patient, x)
        return total

    def draws(self, count: int = DRAWS) -> Iterator[np.ndarray]:
        """How often each patient is drawn, (rows, patients) float64, in portions; `count` rows in all."""
        rng = np.random.default_rng(self.seed)
        even = np.full(self.patients, 1 / self.patients)
        for start in range(0, count, _DRAWS_AT_ONCE):
            rows = min(_DRAWS_AT_ONCE, count - start)
            yield rng.multinomial(self.patients, even, size=rows).astype(np.float64)

    def weightings(self, count: int = DRAWS) -> Float[np.ndarray, "weightings n"]:
        """How often each image counts: once in row 0, as often as its patient was drawn in `count` others; of one
        patient alone there is nothing to draw."""
        rows = [np.ones((1, self.patients))]
        if self.patients > 1:
            rows += self.draws(count)
        return np.concatenate(rows)[:, self.patient]

    def drawn_sums(self, x: np.ndarray, count: int = DRAWS) -> np.ndarray:
        """(count, ...) what the sum of a quantity (N, ...) is in each draw."""
        total = self.by_patient(x).reshape(self.patients, -1)
        return np.concatenate([rows @ total for rows in self.draws(count)]).reshape(count, *x.shape[1:])
