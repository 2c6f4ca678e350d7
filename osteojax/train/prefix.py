"""The frozen beginning of a network, computed once for each image and not once for each image and epoch.

Its parameters do not move and its batch norms run in inference mode, so that what it makes of an image is the same in
every epoch, and in every run that starts from the same weights. The activations lie in a folder under a name that is a
hash of all that decides them (`osteojax.data.activations.Spec`): a stale one is never found.
"""

import dataclasses
import hashlib
import json
import logging
import math
import shutil
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from osteojax.data.activations import EXAMPLES_PER_SHARD, Activations, Spec, Store
from osteojax.data.dataset import Examples, PreparedDataset
from osteojax.data.pixels import unpack
from osteojax.devices.agreement import shared_errors
from osteojax.devices.mesh import batch_sharding, make_mesh, replicated
from osteojax.errors import UserError
from osteojax.files import cache_dir, disk_errors
from osteojax.models import POOL
from osteojax.models.network import Flat, Network
from osteojax.progress import progress
from osteojax.run.state import TrainState
from osteojax.run.workdir import seen_by_all
from osteojax.train import augment, parameter_groups
from osteojax.train.experiment import AS_COMPUTED
from osteojax.train.step import Recipe

log = logging.getLogger(__name__)

_GIB = 2**30
_SECONDS_TO_APPEAR = 30.0  # network file systems take their time


def frozen_prefix(recipe: Recipe, step: int) -> str | None:
    """The last part of the network that does not learn in the update after `step`; None where the first one does."""
    trainable = parameter_groups.trainable_at(recipe.groups, recipe.labels, step)
    stages = recipe.network.stages
    first = next(stage for stage in stages if any(path.startswith(f"{stage}/") for path in trainable))
    if first == stages[-1] and POOL in recipe.network.cuts:
        return POOL
    return stages[stages.index(first) - 1] if first != stages[0] else None


def frozen_until(recipe: Recipe, step: int) -> float:
    """The step at which a part of the prefix that is frozen at `step` begins to learn; infinite where none does."""
    now = frozen_prefix(recipe, step)
    later = (phase for phase in parameter_groups.phases(recipe.groups) if phase > step)
    return next((phase for phase in later if frozen_prefix(recipe, phase) != now), math.inf)


class PrefixCache:
    """The activations of a run's frozen prefix: found on disk, or computed, by all hosts together.

    Args:
        recipe: of the run.
        architecture: of its network.
        state: whose parameters compute them.
        upto: the last part of the prefix.
        rows: examples that a device takes at once in training.
        mesh: of the run.

    Raises:
        UserError: the folder cannot be written.
    """

    def __init__(
        self,
        recipe: Recipe,
        architecture: str,
        state: TrainState,
        upto: str,
        rows: int,
        mesh: jax.sharding.Mesh,
    ) -> None:
        self._recipe, self._architecture, self._upto = recipe, architecture, upto
        self._here = make_mesh(devices=jax.local_devices())
        self._rows = rows * self._here.size
        whole = jax.jit(lambda trees: trees, out_shardings=replicated(mesh))(
            (state.params, state.batch_stats)
        )
        params, stats = jax.tree.map(lambda x: np.asarray(x.addressable_data(0)), whole)
        self._weights = _digest(recipe.network, upto, params, stats)
        self._arrays = jax.device_put((params, stats), replicated(self._here))
        settings = recipe.experiment.train
        self._root = Path(settings.cache_dir or cache_dir() / "prefix")
        with shared_errors(), disk_errors(self._root):
            self._root.mkdir(parents=True, exist_ok=True)
        self._shared = seen_by_all(self._root)

    def of(self, dataset: PreparedDataset, splits: Sequence[str], *, augmented: str) -> dict[str, Examples]:
        """The activations of some splits, by name.

        Args:
            dataset: prepared, of this run's fold.
            splits: their names.
            augmented: the one whose images are augmented, where the run augments.

        Raises:
            UserError: the dataset is damaged, or the disk too small for what has to be computed.
        """
        parts: dict[str, list[_Part]] = {}
        with shared_errors():
            for split in splits:
                chain = self._recipe.augmentations if split == augmented else augment.Chain(())
                compute = self._computation(chain)
                parts[split] = [
                    _Part(
                        Store(self._root, self._spec(dataset, name, source, compute, chain)), source, compute
                    )
                    for name, source in dataset.parts(split).items()
                ]
            self._announce([part.store for of_split in parts.values() for part in of_split])
        for of_split in parts.values():
            for part in of_split:
                self._fill(part)
        with shared_errors():
            return {
                split: dataset.select(
                    split,
                    Activations(
                        [part.store for part in of_split],
                        np.concatenate([part.source.labels() for part in of_split]),
                    ),
                )
                for split, of_split in parts.items()
            }

    def pre_logits(self, kept: Examples) -> tuple[np.ndarray, np.ndarray]:
        """What the last layer takes of the activations that `of` gave: (N, F) float32, and their labels (N,).

        What stands between the prefix and that layer is run here, a batch at a time: nothing of it is kept on disk.
        """
        rest = jax.jit(
            self._recipe.network.pre_logits_function(self._recipe.network.after(self._upto)),
            out_shardings=replicated(self._here),
        )
        features, labels = [], []
        for first in range(0, len(kept), self._rows):
            h, label = kept.read(range(first, min(first + self._rows, len(kept))))
            padded = np.zeros((self._rows, *h.shape[1:]), h.dtype)
            padded[: len(h)] = h
            features.append(
                np.asarray(rest(*self._arrays, jax.device_put(padded, batch_sharding(self._here))))[: len(h)]
            )
            labels.append(label)
        return np.concatenate(features), np.concatenate(labels)

    def _computation(self, chain: augment.Chain) -> Callable[..., jax.Array]:
        """`f(params, stats, image (R, H, W, C), view (), example (R,)) -> activations (R, ...)`, as they are stored."""
        features = self._recipe.network.cut(self._upto).features
        settings = self._recipe.experiment
        # Another stream than the steps' own.
        stream = jax.random.fold_in(jax.random.key(settings.seed), zlib.crc32(b"views of the prefix cache"))

        def compute(
            params: Flat, stats: Flat, image: jax.Array, view: jax.Array, example: jax.Array
        ) -> jax.Array:
            of_view = jax.random.fold_in(stream, view)
            keys = jax.vmap(lambda number: jax.random.fold_in(of_view, number))(example)
            h = features(params, stats, augment.apply_each(keys, unpack(image), chain))
            return h if settings.train.cache_dtype == AS_COMPUTED else h.astype(settings.train.cache_dtype)

        rows, one = batch_sharding(self._here), replicated(self._here)
        return jax.jit(compute, in_shardings=(one, one, rows, one, rows), out_shardings=rows)

    def _spec(
        self,
        dataset: PreparedDataset,
        part: str,
        source: Examples,
        compute: Callable[..., jax.Array],
        chain: augment.Chain,
    ) -> Spec:
        experiment = self._recipe.experiment
        model = experiment.model
        result = jax.eval_shape(compute, *self._arrays, *self._inputs(source, range(1), 0))
        members = "; ".join(str(settings) for _, settings in chain.members)
        return Spec(
            weights=self._weights,
            network=f"{self._architecture}, {model.dtype}, convolutions {model.conv_impl}",
            upto=self._upto,
            dataset=dataset.fingerprint,
            preprocessing=hashlib.sha256(
                json.dumps(dataset.preprocessing, sort_keys=True).encode()
            ).hexdigest(),
            part=part,
            examples=len(source),
            views=experiment.train.cache_views if chain.members else 1,
            augmentation=f"seed {experiment.seed}, {chain.choose} of {members}" if members else None,
            shape=tuple(result.shape[1:]),
            dtype=str(result.dtype),
            computed_by=f"{jax.default_backend()}, jax {jax.__version__}",
        )

    def _announce(self, stores: Sequence[Store]) -> None:
        """Says what is there and what will be computed, and what disk that takes.

        Raises:
            UserError: more than there is.
        """
        need = sum(store.spec.bytes * len(store.missing()) / len(store.spec.shards) for store in stores)
        log.info(
            "frozen prefix up to %s: activations of %d examples, up to %d view(s) of each, %s, %.2f GiB in %s; %s",
            self._upto,
            sum(store.spec.examples for store in stores),
            max(store.spec.views for store in stores),
            stores[0].spec.dtype,
            sum(store.spec.bytes for store in stores) / _GIB,
            self._root,
            f"{need / _GIB:.2f} GiB of them are to be computed" if need else "all of them are there",
        )
        with disk_errors(self._root):
            free = shutil.disk_usage(self._root).free
        if need > free:
            raise UserError(
                f"the activations of the frozen prefix need {need / _GIB:.2f} GiB more in {self._root}, where "
                f"{free / _GIB:.2f} GiB are free; set train.cache_dir to a larger disk, train.cache_dtype to bfloat16, "
                "train.cache_views lower, or train.cache_prefix=False"
            )

    def _fill(self, part: "_Part") -> None:
        """Computes the shards that are missing, each process its share; without a folder in common all write all."""
        spec, hosts, host = part.store.spec, jax.process_count(), jax.process_index()
        present = np.ones(len(spec.shards), bool)
        present[part.store.missing()] = False
        missing = np.flatnonzero(~_everywhere(present)).tolist()
        rounds = [missing[first : first + hosts] for first in range(0, len(missing), hosts)]
        with progress(f"frozen prefix of {spec.part}", len(rounds), active=host == 0) as advance:
            for shards in rounds:
                values = np.zeros((EXAMPLES_PER_SHARD, *spec.shape), spec.dtype)
                with shared_errors():
                    if host < len(shards):
                        self._compute_shard(part, shards[host], values)
                        if self._shared:
                            part.store.write(shards[host], values)
                if not self._shared:
                    of_all = multihost_utils.process_allgather(values)
                    with shared_errors():
                        for shard, of_one in zip(shards, of_all, strict=False):
                            part.store.write(shard, np.asarray(of_one))
                advance()
        with shared_errors():
            _appeared(part.store)

    def _compute_shard(self, part: "_Part", shard: int, values: np.ndarray) -> None:
        """Fills `values` with the activations of a shard."""
        view, examples = part.store.spec.shards[shard]
        for first in range(examples.start, examples.stop, self._rows):
            rows = range(first, min(first + self._rows, examples.stop))
            found = np.asarray(part.compute(*self._arrays, *self._inputs(part.source, rows, view)))
            values[first - examples.start : rows.stop - examples.start] = found[: len(rows)]
        if not np.isfinite(values.astype(np.float32)).all():
            raise UserError(
                f"activations of {part.store.spec.part} are not finite as {values.dtype}; set train.cache_dtype to "
                "bfloat16 or float32"
            )

    def _inputs(self, source: Examples, rows: range, view: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Images, padded to the rows that training has, the view, and the examples' numbers, on this host's devices."""
        image, _ = source.read(rows)
        padded = np.zeros((self._rows, *image.shape[1:]), image.dtype)
        padded[: len(rows)] = image
        numbers = rows.start + np.arange(self._rows, dtype=np.int32)
        # Of several processes none may hand arrays of numpy to a program that is laid out over devices.
        by_row, whole = batch_sharding(self._here), replicated(self._here)
        return jax.device_put((padded, np.int32(view), numbers), (by_row, whole, by_row))


@dataclasses.dataclass(frozen=True)
class _Part:
    """A stored part of the dataset, where its activations lie, and what computes them."""

    store: Store
    source: Examples
    compute: Callable[..., jax.Array]


def _digest(network: Network, upto: str, params: Flat, stats: Flat) -> str:
    """SHA-256 of the parameters and statistics of the parts up to `upto`: of names, shapes, dtypes and values."""
    parts = network.stages[: network.stages.index(network.after(upto))]
    digest = hashlib.sha256()
    for path, value in sorted((params | stats).items()):
        if path.partition("/")[0] in parts:
            digest.update(f"{path} {value.shape} {value.dtype}\n".encode())
            digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def _everywhere(flags: np.ndarray) -> np.ndarray:
    """Which of the flags are set on every process."""
    of_all = np.asarray(multihost_utils.process_allgather(flags)).reshape(-1, len(flags))
    return np.logical_and.reduce(of_all, 0)


def _appeared(store: Store) -> None:
    """Waits for what other processes wrote.

    Raises:
        UserError: it does not come.
    """
    deadline = time.monotonic() + _SECONDS_TO_APPEAR
    while store.missing():
        if time.monotonic() > deadline:
            raise UserError(
                f"{store.path(store.missing()[0])} of another process does not appear; start again"
            )
        time.sleep(0.2)
