"""Which images of another dataset show what a run learned from: cropped, turned, mirrored, inverted or re-encoded."""

import dataclasses
import logging
from collections.abc import Iterator

import numpy as np

from data_prep.audit.near_duplicates import find_copies
from osteojax.data.dataset import Examples, PreparedDataset
from osteojax.run.predictions import text

log = logging.getLogger(__name__)
_AT_ONCE = 64


@dataclasses.dataclass(frozen=True)
class NearCopy:
    """An image that is tested and one that was learned from, of which one is a copy of the other or of a part of it.

    Attributes:
        tested, learned: their files, as in the datasets.
        correlation: of their fine detail, -1 to 1.
    """

    tested: str
    learned: str
    correlation: float


def near_copies(own: PreparedDataset, dataset: PreparedDataset, split: str) -> list[NearCopy]:
    """The images of a split that are near copies of what a run learned from or chose its checkpoint on.

    They are compared as both datasets have them prepared, in the way of the audit (docs/data_audit.md). Identical
    images are among them.

    Args:
        own: the run's dataset, of its fold.
        dataset: the other one.
        split: of that one.

    Raises:
        UserError: a dataset is damaged.
    """
    learned = [own.source(name) for name, count in own.splits.items() if count and name != "test"]
    tested = dataset.source(split)
    count = sum(map(len, learned))
    log.info(
        "looking for copies of %d images that were learned from among the %d of %s", count, len(tested), split
    )
    found = find_copies(_pixels(tested), (image for part in learned for image in _pixels(part)), count)
    if not found:
        return []
    files = [text(example["file"]) for part in learned for example in part]
    return [
        NearCopy(text(tested[copy.query]["file"]), files[copy.known], round(copy.correlation, 3))
        for copy in found
    ]


def _pixels(source: Examples) -> Iterator[np.ndarray]:
    """Images (H, W), a few of them in memory at a time."""
    for first in range(0, len(source), _AT_ONCE):
        images, _ = source.read(range(first, min(first + _AT_ONCE, len(source))))
        yield from images[..., 0]
