"""The order of examples in which all classes are equally frequent."""

from collections.abc import Sequence
from typing import Any

import grain
import numpy as np


class Balanced(grain.MapDataset):
    """Element p is the example at place p of the endless order, a pure function of (seed, p).

    An epoch has the length of K times the largest class: that one's examples come once, those of a smaller class as
    often as it takes, each as often as any other of its class or once more. Oversampling, so that no example is lost.

    Args:
        labels: (N,) of the split.
        seed: of the order.
    """

    def __init__(self, labels: Sequence[int] | np.ndarray, seed: int) -> None:
        found = np.unique(np.asarray(labels))
        self._members = [np.flatnonzero(np.asarray(labels) == label) for label in found]
        self._largest = max(map(len, self._members))
        super().__init__(grain.MapDataset.range(self._largest * len(found)).seed(seed).shuffle())
        # A class's own endless order: each of its epochs is a permutation of it.
        self._orders = [
            grain.MapDataset.range(len(of)).seed((seed + 1 + k) % 2**32).shuffle()
            for k, of in enumerate(self._members)
        ]

    def __len__(self) -> int:
        """Length of an epoch."""
        return len(self._parent)

    def __getitem__(self, place: Any) -> int:
        """Index of an example in the split."""
        turn, k = divmod(int(self._parent[place]), len(self._members))
        within = (place // len(self)) * self._largest + turn
        return int(self._members[k][int(self._orders[k][within])])
