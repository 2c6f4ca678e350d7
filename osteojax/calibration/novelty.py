"""Whether an image is like those that the network learned from; a photograph of a cat has no bone health.

Two scores, each larger for stranger images: the Mahalanobis distance of the features to the nearest class (Lee et
al. 2018), and the free energy of the logits (Liu et al. 2020). An image is flagged where either exceeds what all but a
stated share of the validation images have. The covariance is that of the leading principal components, shrunk as Ledoit
and Wolf (2004) have it, and a sphere in all other directions: what leaves the subspace of the training images counts.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import logsumexp
from sklearn.covariance import ledoit_wolf_shrinkage

RATE = 0.05
_COMPONENTS = 128


@dataclasses.dataclass(frozen=True)
class Novelty:
    """Where the training images lie among all features, and from where on an image is flagged.

    Attributes:
        means: (C, F) of the classes that have examples.
        axes: (K, F) orthonormal directions in which they vary within classes.
        variances: (K,) along them.
        rest: variance in each other direction.
        thresholds: (2,) of distance and energy.
    """

    means: Float[np.ndarray, "classes features"]
    axes: Float[np.ndarray, "components features"]
    variances: Float[np.ndarray, " components"]
    rest: float
    thresholds: Float[np.ndarray, " 2"]

    @classmethod
    def fit(
        cls,
        features: Float[np.ndarray, "n features"],
        labels: Int[np.ndarray, " n"],
        validation_features: Float[np.ndarray, "m features"],
        validation_logits: Float[np.ndarray, "m classes"],
        rate: float = RATE,
    ) -> "Novelty":
        """From training images, with thresholds that flag at most `rate` of validation images like these."""
        features = features.astype(np.float64)
        present = np.unique(labels)
        means = np.stack([features[labels == c].mean(0) for c in present])
        centred = features - means[np.searchsorted(present, labels)]
        shrinkage = float(ledoit_wolf_shrinkage(centred, assume_centered=True))
        _, values, axes = np.linalg.svd(centred, full_matrices=False)
        found = values**2 / len(centred)
        level = found.sum() / features.shape[1]
        kept = min(_COMPONENTS, max(len(features) - len(present), 1), len(found))
        others = max(features.shape[1] - kept, 1)
        rest = (1 - shrinkage) * found[kept:].sum() / others + shrinkage * level
        variances = (1 - shrinkage) * found[:kept] + shrinkage * level
        tiny = 1e-12 * max(level, 1e-300)
        unflagged = cls(means, axes[:kept], np.maximum(variances, tiny), max(float(rest), tiny), np.zeros(2))
        scores = unflagged.scores(validation_features, validation_logits)
        # Each of the two scores may flag half of the rate.
        rank = min(int(np.ceil((1 - rate / 2) * (len(scores) + 1))), len(scores))
        return dataclasses.replace(unflagged, thresholds=np.sort(scores, axis=0)[rank - 1])

    def scores(
        self, features: Float[np.ndarray, "n features"], logits: Float[np.ndarray, "n classes"]
    ) -> Float[np.ndarray, "n 2"]:
        """Distance and energy of N images."""
        distances = np.stack([self._distance(features - mean) for mean in self.means])
        return np.stack([distances.min(0), -logsumexp(logits.astype(np.float64), axis=-1)], -1)

    def _distance(self, away: np.ndarray) -> np.ndarray:
        along = away @ self.axes.T
        beside = np.maximum((away**2).sum(-1) - (along**2).sum(-1), 0)
        return np.sqrt((along**2 / self.variances).sum(-1) + beside / self.rest)

    def flagged(
        self, features: Float[np.ndarray, "n features"], logits: Float[np.ndarray, "n classes"]
    ) -> Bool[np.ndarray, " n"]:
        """(N,) whether an image is unlike those of training."""
        return np.any(self.scores(features, logits) > self.thresholds, axis=-1)
