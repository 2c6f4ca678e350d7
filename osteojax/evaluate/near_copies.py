"""Which images of another dataset show what a run learned from: cropped, turned, mirrored, inverted or re-encoded."""

import dataclasses
import logging
from collections.abc import Iterator

import numpy as np

from data_prep.audit.near_duplicates import find_copies
from osteojax.data.dataset import PreparedDataset
from osteojax.run.predictions import text

log = logging.getLogger(__name__)


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
    files: list[str] = []

    def learned_images() -> Iterator[np.ndarray]:
        for part in learned:
            for example in part:
                files.append(text(example["file"]))
                yield example["image"][..., 0]

    found = find_copies((example["image"][..., 0] for example in tested), learned_images(), count)
    return [
        NearCopy(text(tested[copy.query]["file"]), files[copy.known], round(copy.correlation, 3))
        for copy in found
    ]
