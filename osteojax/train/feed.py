"""What the steps and the validations of a run read: images, or activations of a frozen prefix; from disk, this host's
memory, or the devices' own."""

import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from osteojax.data import memory
from osteojax.data.batches import BatchPlan
from osteojax.data.columns import Columns, beside
from osteojax.data.dataset import NO_SPLIT, Examples, PreparedDataset
from osteojax.data.memory import InMemory, bytes_of
from osteojax.devices.agreement import any_process
from osteojax.devices.mesh import replicated
from osteojax.models.network import FIRST
from osteojax.run.state import TrainState
from osteojax.train.experiment import Experiment
from osteojax.train.prefix import PrefixCache, frozen_prefix, frozen_until
from osteojax.train.step import Recipe

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Feed:
    """Where the inputs come from.

    Attributes:
        train: of the steps.
        validation: of the validations; None where there are none.
        start: the part of the network that takes them.
        until: the step from which on images are needed after all: a part before `start` begins to learn.
        held: empty, or all inputs of `train`, (V N, ...), on every device; the batches then hold numbers of its rows.
    """

    train: Examples
    validation: Examples | None
    start: str = FIRST
    until: float = math.inf
    held: tuple[jax.Array, ...] = ()


class Rows(Examples):
    """Examples whose inputs are held elsewhere: in place of each stands the number of its row there."""

    def __init__(self, labels: np.ndarray, views: int) -> None:
        self._labels, self.views = labels, views

    def __len__(self) -> int:
        return len(self._labels)

    def labels(self) -> np.ndarray:
        """See `Examples`."""
        return self._labels

    def element(self) -> tuple[tuple[int, ...], np.dtype]:
        """See `Examples`."""
        return (), np.dtype(np.int32)

    def read(self, indices: Sequence[int], view: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """See `Examples`."""
        rows = np.asarray(indices, np.int32)
        return rows + np.int32(view * len(self)), self._labels[rows]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The first view of these examples."""
        return [{"image": row, "label": label} for row, label in zip(*self.read(indices), strict=True)]


def choose(
    recipe: Recipe,
    architecture: str,
    dataset: PreparedDataset,
    state: TrainState,
    step: int,
    plan: BatchPlan,
    mesh: jax.sharding.Mesh,
) -> Feed:
    """What the steps from `step` on read.

    Raises:
        UserError: the dataset is damaged, or what is to be cached does not fit.
    """
    experiment = recipe.experiment
    splits = ["train"] + ([experiment.eval.split] if experiment.eval.split != NO_SPLIT else [])
    upto = frozen_prefix(recipe, step) if experiment.train.cache_prefix else None
    if upto is None:
        if experiment.train.cache_prefix:
            log.warning(
                "train.cache_prefix: the first part of the network learns from step %d on; nothing of it is cached",
                step,
            )
        return _placed(experiment, {split: dataset.source(split) for split in splits}, mesh, pixels=True)
    until = frozen_until(recipe, step)
    if until < math.inf:
        log.info(
            "from step %d on, which unfreezes a part of it, the frozen prefix is not taken from the cache",
            until,
        )
    cache = PrefixCache(recipe, architecture, state, upto, plan.rows // plan.devices, mesh)
    activations = cache.of(dataset, splits, augmented="train")
    feed = _placed(experiment, activations, mesh, pixels=False)
    return dataclasses.replace(feed, start=recipe.network.after(upto), until=until)


def with_columns(
    feed: Feed, experiment: Experiment, dataset: PreparedDataset, columns: Columns | None
) -> Feed:
    """The feed with the columns that the network takes, and the T-scores that it learns, beside the inputs."""
    t_score = experiment.model.t_score
    if columns is None and not t_score:
        return feed

    def joined(inputs: Examples, split: str) -> Examples:
        return beside(inputs, columns, t_score, dataset.source(split).identities())

    validation = None if feed.validation is None else joined(feed.validation, experiment.eval.split)
    return dataclasses.replace(feed, train=joined(feed.train, "train"), validation=validation)


def _placed(
    experiment: Experiment, splits: Mapping[str, Examples], mesh: jax.sharding.Mesh, *, pixels: bool
) -> Feed:
    """The splits where `data.hold` wants them."""
    where, threads = experiment.data.hold, experiment.data.threads
    if where == "auto":
        # Together: hosts of one run should not differ in where they wait.
        where = "disk" if any_process(not memory.fits(splits.values())) else "host"
    found = dict(splits)
    if where != "disk":
        found = {name: memory.hold(split, pixels=pixels, threads=threads) for name, split in splits.items()}
    train, validation = found["train"], found.get(experiment.eval.split)
    log.info(
        "%s of %d examples are read from %s",
        "images" if pixels else "activations",
        sum(map(len, found.values())),
        "disk, step by step" if where == "disk" else f"the memory of the {where}",
    )
    if where != "device" or not isinstance(train, InMemory):
        return Feed(train, validation)
    images = train.images
    held = jax.make_array_from_callback(images.shape, replicated(mesh), lambda index: images[index])
    log.info("%.2f GiB of each device hold the training split", bytes_of(train) / 2**30)
    return Feed(Rows(train.labels(), train.views), validation, held=(held,))
