"""A directory that `osteojax prep` wrote, opened without TensorFlow."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import tensorflow_datasets as tfds

from osteojax import folds, storage
from osteojax.errors import UserError

Example = dict[str, Any]
# In place of a split, where a run validates nothing.
NO_SPLIT = "none"


@runtime_checkable
class Examples(Protocol):
    """Examples by their number: those of a split, or images at hand.

    Attributes:
        views: how many inputs there are of each example; an epoch sees one of them, the next epoch the next.
    """

    views: int = 1

    def __len__(self) -> int: ...

    def __getitems__(self, indices: Sequence[int]) -> list[Example]:
        """The examples at these places; each has at least `image` and `label`."""
        ...

    def read(self, indices: Sequence[int], view: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """The network's input (n, ...) and labels (n,) int32 of n examples, at least one; `view` is below `views`."""
        del view  # there is one
        examples = self.__getitems__(indices)
        return (
            np.stack([example["image"] for example in examples]),
            np.asarray([example["label"] for example in examples], np.int32),
        )

    def element(self) -> tuple[tuple[int, ...], np.dtype]:
        """Shape and dtype of one example's input."""
        image = np.asarray(self[0]["image"])
        return image.shape, image.dtype

    def labels(self) -> np.ndarray:
        """Labels (N,) int32 of all examples."""
        return np.asarray([example["label"] for example in self], np.int32)

    def __getitem__(self, index: int) -> Example:
        return self.__getitems__([index])[0]

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))


class Split(Examples):
    """Random access to the examples of a split.

    Args:
        directory: of the dataset, for messages.
        name: of the split.
        source: of TFDS.
        without_images: the same, with the images left encoded.
    """

    def __init__(self, directory: Path, name: str, source: Any, without_images: Any) -> None:
        self._directory, self._name = directory, name
        self._source, self._without_images = source, without_images

    def __len__(self) -> int:
        return len(self._source)

    def __getitems__(self, indices: Sequence[int]) -> list[Example]:
        """The examples at these places.

        Raises:
            UserError: a shard is not what was written.
        """
        return self._read(self._source, indices)

    def labels(self) -> np.ndarray:
        """See `Examples`.

        Raises:
            UserError: a shard is not what was written.
        """
        examples = self._read(self._without_images, range(len(self)))
        return np.asarray([example["label"] for example in examples], np.int32)

    def _read(self, source: Any, indices: Sequence[int]) -> list[Example]:
        try:
            return list(source.__getitems__(list(indices))) if len(indices) else []
        except Exception as error:  # what array_record, protobuf, zlib or TFDS make of damaged bytes
            raise UserError(
                f"{self._directory}: the shards of split {self._name!r} are damaged ({_first_line(error)}); "
                "copy them again, or prepare the dataset again"
            ) from error


@dataclasses.dataclass(frozen=True)
class PreparedDataset:
    """A directory that `osteojax prep` wrote.

    Attributes:
        directory: where it lies.
        class_names: in label order.
        preprocessing: the full spec of how the pixels were made, as stored in the dataset's metadata.
        fingerprint: hash of contents, labels, splits and preprocessing.
        splits: number of examples of each split.
        image_shape: (height, width, 1).
        folds: how many folds the dataset was dealt into; 0 where it has a training, a validation and a test split.
    """

    directory: Path
    class_names: tuple[str, ...]
    preprocessing: dict[str, Any]
    fingerprint: str
    splits: dict[str, int]
    image_shape: tuple[int, int, int]
    folds: int
    _parts: Mapping[str, tuple[str, ...]] = dataclasses.field(repr=False, compare=False)
    _stored: Mapping[str, int] = dataclasses.field(repr=False, compare=False)
    _builder: Any = dataclasses.field(repr=False, compare=False)

    @classmethod
    def open(cls, directory: str | Path) -> "PreparedDataset":
        """Opens a prepared dataset, through this host's copy where it lies on an object store.

        Raises:
            UserError: there is none, it was not written by `osteojax prep`, or it is damaged.
        """
        if not str(directory):
            raise UserError(
                "no prepared dataset in data.dir, which is empty; name a folder of `osteojax prep` with "
                "--config.data.dir=FOLDER"
            )
        directory = storage.localise(directory)
        if not (directory / "dataset_info.json").is_file():
            raise UserError(
                f"no prepared dataset in {directory}; make one with: osteojax prep --source=S --out={directory}"
            )
        try:
            builder = tfds.builder_from_directory(str(directory))
            info = builder.info
            metadata = dict(info.metadata or {})
            if "preprocessing" not in metadata:
                raise UserError(
                    f"{directory} holds no preprocessing spec; it was not written by `osteojax prep`"
                )
            splits = {name: split.num_examples for name, split in info.splits.items()}
            return cls(
                directory=directory,
                class_names=tuple(info.features["label"].names),
                preprocessing=dict(metadata["preprocessing"]),
                fingerprint=metadata["fingerprint"],
                splits=splits,
                image_shape=tuple(info.features["image"].shape),
                folds=folds.fold_count(splits),
                _parts={name: (name,) for name in splits},
                _stored=splits,
                _builder=builder,
            )
        except UserError:
            raise
        except Exception as error:  # TFDS meets damaged or foreign JSON in many ways
            raise UserError(
                f"{directory} is no whole prepared dataset ({_first_line(error)}); copy it again, or prepare it again"
            ) from error

    def for_fold(self, fold: int) -> "PreparedDataset":
        """The dataset with one fold as its test split, the next as validation and the others as training.

        Args:
            fold: from 0; `folds.NONE` for a dataset that is not dealt into folds.

        Raises:
            UserError: there is no such fold, or one must be chosen.
        """
        if not self.folds:
            if fold == folds.NONE:
                return self
            raise UserError(
                f"fold={fold}: {self.directory} is not dealt into folds; prepare it with --config.split.folds=5, "
                f"or leave fold at {folds.NONE}"
            )
        if not 0 <= fold < self.folds:
            raise UserError(
                f"{self.directory} is dealt into {self.folds} folds; say which is tested with --config.fold=0 to "
                f"{self.folds - 1}, not {fold}"
            )
        parts = folds.parts(fold, self.folds)
        counts = {split: sum(self.splits[part] for part in of) for split, of in parts.items()}
        return dataclasses.replace(self, splits=counts, folds=0, _parts=parts)

    def parts(self, split: str) -> dict[str, Split]:
        """The stored parts that make a split, in order: itself, or folds."""
        whole = dataclasses.replace(
            self, splits=dict(self._stored), _parts={name: (name,) for name in self._stored}
        )
        return {name: whole.source(name) for name in self._parts[split]}

    def source(self, split: str) -> Split:
        """Random access to the examples of a split, without TensorFlow.

        Raises:
            UserError: no such split, it is empty, or its shards are not there.
        """
        if not self.splits.get(split):
            present = ", ".join(f"{name} ({n})" for name, n in self.splits.items())
            raise UserError(f"{self.directory} has no examples in split {split!r}; it has {present}")
        try:
            stored = "+".join(self._parts[split])
            source = self._builder.as_data_source(stored)
            without_images = self._builder.as_data_source(
                stored, decoders={"image": tfds.decode.SkipDecoding()}
            )
            found = len(source)
        except Exception as error:
            raise UserError(
                f"{self.directory}: the shards of split {split!r} cannot be opened ({_first_line(error)}); "
                "copy them again, or prepare the dataset again"
            ) from error
        if found != self.splits[split]:
            raise UserError(
                f"{self.directory}: the shards of split {split!r} hold {found} examples where "
                f"{self.splits[split]} were written; copy them again, or prepare the dataset again"
            )
        return Split(self.directory, split, source, without_images)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__
