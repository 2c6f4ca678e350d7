"""Activations on disk: one ArrayRecord shard a block of examples, under a name that says what they are activations of.

A shard is written whole or not at all, so that a build that is killed goes on where it was, and processes that share
the folder can write different shards of it. Its records are bare arrays: nothing is compressed, nothing is parsed.
"""

import dataclasses
import hashlib
import json
import math
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
from array_record.python import array_record_module
from array_record.python.array_record_data_source import ArrayRecordDataSource

from osteojax import config as configs
from osteojax.data.dataset import Examples
from osteojax.errors import UserError
from osteojax.files import disk_errors, write_atomically

EXAMPLES_PER_SHARD = 64
_SPEC = "spec.json"


@dataclasses.dataclass(frozen=True)
class Spec:
    """What activations are of. Two that differ in anything lie in different folders.

    Attributes:
        weights: SHA-256 of the parameters and statistics that computed them.
        network: the architecture, and what else of the model decides the numbers.
        upto: the last part that was computed.
        dataset: fingerprint of the prepared dataset.
        preprocessing: SHA-256 of the spec of its pixels.
        part: of the dataset: a split, or a fold.
        examples: N of that part.
        views: of each example, V.
        augmentation: what the views differ by; None where there is one, of the image as it is.
        shape: of one example's activations.
        dtype: as they are stored.
        computed_by: platform and release of JAX: others round otherwise.
    """

    weights: str
    network: str
    upto: str
    dataset: str
    preprocessing: str
    part: str
    examples: int
    views: int
    augmentation: str | None
    shape: tuple[int, ...]
    dtype: str
    computed_by: str

    @property
    def key(self) -> str:
        """Name of the folder."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:24]

    @property
    def bytes(self) -> int:
        """On disk, but for the headers of the records."""
        return self.views * self.examples * math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def shards(self) -> list[tuple[int, range]]:
        """View and examples of each shard, in order."""
        return [
            (view, range(first, min(first + EXAMPLES_PER_SHARD, self.examples)))
            for view in range(self.views)
            for first in range(0, self.examples, EXAMPLES_PER_SHARD)
        ]

    def to_json(self) -> str:
        """With sorted keys."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, indent=1)


class Store:
    """The folder of one spec's activations.

    Args:
        root: of all of them.
        spec: of these.

    Raises:
        UserError: what lies under this name is of something else, or it cannot be written.
    """

    def __init__(self, root: Path, spec: Spec) -> None:
        self.folder, self.spec = root / spec.key, spec
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / _SPEC
            if not path.exists():
                write_atomically(path, spec.to_json())
            found = path.read_text(encoding="utf-8", errors="replace")
        if found != spec.to_json():
            raise UserError(
                f"{self.folder} holds activations of something else ({self._differences(found)}) and is not used; "
                "delete it and start again: they are computed anew"
            )

    def _differences(self, found: str) -> str:
        try:
            other, mine = (
                ml_collections.ConfigDict(json.loads(text)) for text in (found, self.spec.to_json())
            )
            changed = configs.differences(other, mine)
        except (ValueError, TypeError, AttributeError):
            changed = {}
        return "; ".join(f"{key}: {change}" for key, change in changed.items()) or f"{_SPEC} is damaged"

    def path(self, shard: int) -> Path:
        """Where a shard lies."""
        return self.folder / f"{shard:05d}-of-{len(self.spec.shards):05d}.array_record"

    def missing(self) -> list[int]:
        """Numbers of the shards that are not there yet."""
        return [shard for shard in range(len(self.spec.shards)) if not self.path(shard).is_file()]

    def write(self, shard: int, values: np.ndarray) -> None:
        """Writes the activations of a shard, in one step: as many of the rows (n, ...) as it has examples.

        Raises:
            UserError: the disk refuses.
        """
        temporary = self.path(shard).with_suffix(f".{os.getpid()}-{secrets.token_hex(4)}.tmp")
        with disk_errors(temporary):
            try:
                count = len(self.spec.shards[shard][1])
                writer = array_record_module.ArrayRecordWriter(str(temporary), "group_size:1,uncompressed")
                for value in np.ascontiguousarray(values[:count], self.spec.dtype):
                    writer.write(value.tobytes())
                writer.close()
                temporary.replace(self.path(shard))
            finally:
                temporary.unlink(missing_ok=True)

    def open(self) -> ArrayRecordDataSource:
        """All shards, as one sequence of records.

        Raises:
            UserError: a shard is missing, or has not the records that it should have.
        """
        paths = [self.path(shard) for shard in range(len(self.spec.shards))]
        try:
            source = ArrayRecordDataSource([str(path) for path in paths])
            found = len(source)
        except Exception as error:  # array_record's own, of missing and of damaged files
            raise self.damaged(error) from error
        if found != self.spec.views * self.spec.examples:
            raise self.damaged(
                f"{found} records where there should be {self.spec.views * self.spec.examples}"
            )
        return source

    def damaged(self, why: object) -> UserError:
        """The error to raise where a shard is not what was written."""
        reason = (str(why).strip() or "unreadable").splitlines()[0][:160]
        return UserError(
            f"the activations in {self.folder} are damaged ({reason}); "
            "delete that folder and start again: they are computed anew"
        )


class Activations(Examples):
    """A split whose inputs are activations.

    Args:
        stores: of the parts of the dataset that make the split, in order, all of one shape and number of views.
        labels: (N,) int32 of the split.
    """

    def __init__(self, stores: Sequence[Store], labels: np.ndarray) -> None:
        self._stores, self._labels = list(stores), labels
        self._sources = [store.open() for store in stores]
        self._ends = np.cumsum([store.spec.examples for store in stores])
        self.views = stores[0].spec.views
        if len(self) != self._ends[-1]:
            raise ValueError(f"{len(self)} labels for activations of {self._ends[-1]} examples")

    def __len__(self) -> int:
        return len(self._labels)

    def labels(self) -> np.ndarray:
        """See `Examples`."""
        return self._labels

    def element(self) -> tuple[tuple[int, ...], np.dtype]:
        """See `Examples`."""
        spec = self._stores[0].spec
        return spec.shape, np.dtype(spec.dtype)

    def read(self, indices: Sequence[int], view: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """See `Examples`.

        Raises:
            UserError: a shard is damaged.
        """
        shape, dtype = self.element()
        rows = np.asarray(indices, np.int64)
        values = np.empty((len(rows), *shape), dtype)
        owner = np.searchsorted(self._ends, rows, side="right")
        for part in np.unique(owner):
            store, places = self._stores[part], np.flatnonzero(owner == part)
            first = self._ends[part] - store.spec.examples
            records = (rows[places] - first + view * store.spec.examples).tolist()
            try:
                for place, record in zip(places, self._sources[part].__getitems__(records), strict=True):
                    values[place] = np.frombuffer(record, dtype).reshape(shape)
            except Exception as error:  # Riegeli's, of bytes that are not those it wrote
                raise store.damaged(error) from error
        return values, self._labels[rows]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The first view of these examples, with their labels."""
        values, labels = self.read(indices)
        return [{"image": value, "label": label} for value, label in zip(values, labels, strict=True)]
