"""The order of examples in which all classes are equally frequent."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from osteojax.data.order import Shuffled


class Balanced:
    """An order (`osteojax.data.order`), a function of the seed.

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
        self._turns = Shuffled(self._largest * len(found), seed)
        # A class's own endless order: each of its epochs is a permutation of it.
        self._orders = [Shuffled(len(of), (seed + 1 + k) % 2**32) for k, of in enumerate(self._members)]

    def __len__(self) -> int:
        """Length of an epoch."""
        return len(self._turns)

    def __getitem__(self, places: Any) -> Any:
        """Numbers of the examples at these places."""
        turn, classes = np.divmod(self._turns[places], len(self._members))
        within = np.asarray(places) // len(self) * self._largest + turn
        found = np.empty(np.shape(places), np.int64)
        for k, (members, order) in enumerate(zip(self._members, self._orders, strict=True)):
            here = classes == k
            found[here] = members[order[within[here]]]
        return found[()]
