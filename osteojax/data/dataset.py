"""A directory that `osteojax prep` wrote, opened without TensorFlow."""

import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import tensorflow_datasets as tfds

from osteojax import fingerprint as fingerprints
from osteojax import folds, leaky, storage
from osteojax.data import leaks
from osteojax.errors import UserError

Example = dict[str, Any]
# In place of a split, where a run validates nothing.
NO_SPLIT = "none"
NO_FOLD = folds.NONE
# What an example has beside its metadata.
IDENTITY = frozenset({"image", "label", "id", "file", "patient_id", "group"})


@runtime_checkable
class Examples(Protocol):
    """Examples by their number: those of a split, or images at hand.

    Attributes:
        views: how many inputs there are of each example; an epoch sees one of them, the next epoch the next.
        beside: arrays (N, ...) of what batches have of each example beside its input, by name.
    """

    views: int = 1
    beside: Mapping[str, np.ndarray] = {}

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

    def identities(self) -> list[Example]:
        """All examples without what the network takes of them: who they are, and their columns."""
        return [{key: value for key, value in example.items() if key != "image"} for example in self]

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
        return np.asarray([example["label"] for example in self.identities()], np.int32)

    def identities(self) -> list[Example]:
        """All examples, their images left encoded.

        Raises:
            UserError: a shard is not what was written.
        """
        return self._read(self._without_images, range(len(self)))

    def _read(self, source: Any, indices: Sequence[int]) -> list[Example]:
        try:
            return list(source.__getitems__(list(indices))) if len(indices) else []
        except Exception as error:  # what array_record, protobuf, zlib or TFDS make of damaged bytes
            raise UserError(
                f"{self._directory}: the shards of split {self._name!r} are damaged ({_first_line(error)}); "
                "copy them again, or prepare the dataset again"
            ) from error


class Some(Examples):
    """Some of the examples of a source.

    Args:
        source: of all.
        places: of those that count, in the order in which they are to come.
    """

    def __init__(self, source: Examples, places: Sequence[int] | np.ndarray) -> None:
        self._source, self._places = source, np.asarray(places, np.int64)
        self.views = source.views

    def __len__(self) -> int:
        return len(self._places)

    def __getitems__(self, indices: Sequence[int]) -> list[Example]:
        """The examples at these places among those that count."""
        return self._source.__getitems__(self._places[list(indices)].tolist())

    def read(self, indices: Sequence[int], view: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """See `Examples`."""
        return self._source.read(self._places[list(indices)].tolist(), view)

    def element(self) -> tuple[tuple[int, ...], np.dtype]:
        """See `Examples`."""
        return self._source.element()

    def labels(self) -> np.ndarray:
        """See `Examples`."""
        return self._source.labels()[self._places]

    def identities(self) -> list[Example]:
        """See `Examples`."""
        everything = self._source.identities()
        return [everything[place] for place in self._places]


@dataclasses.dataclass(frozen=True)
class PreparedDataset:
    """A directory that `osteojax prep` wrote.

    Attributes:
        directory: where it lies.
        class_names: in label order.
        preprocessing: the full spec of how the pixels were made, as stored in the dataset's metadata.
        fingerprint: hash of contents, labels, splits and preprocessing, and of the mark.
        splits: number of examples of each split.
        image_shape: (height, width, channels).
        folds: how many folds the dataset was dealt into; 0 where it has a training, a validation and a test split.
        repeats: how many times it was dealt; 1 without folds.
        mark: of a split that was allowed to leak; None where none was.
    """

    directory: Path
    class_names: tuple[str, ...]
    preprocessing: dict[str, Any]
    fingerprint: str
    splits: dict[str, int]
    image_shape: tuple[int, int, int]
    folds: int
    repeats: int
    mark: leaky.Mark | None
    _parts: Mapping[str, tuple[str, ...]] = dataclasses.field(repr=False, compare=False)
    _stored: Mapping[str, int] = dataclasses.field(repr=False, compare=False)
    _content: str = dataclasses.field(repr=False, compare=False)
    _builder: Any = dataclasses.field(repr=False, compare=False)
    # Of a further deal: split -> its examples' places among those of `_parts`.
    _places: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of what is known of an example beside its identity."""
        return tuple(sorted(set(self._builder.info.features) - IDENTITY))

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
                repeats=int(metadata.get("split", {}).get("repeats", 1)),
                mark=leaky.sealed(metadata, directory),
                splits=splits,
                image_shape=tuple(info.features["image"].shape),
                folds=folds.fold_count(splits),
                _parts={name: (name,) for name in splits},
                _stored=splits,
                _content=metadata["content"] if "content" in metadata else metadata["fingerprint"],
                _builder=builder,
            )
        except UserError:
            raise
        except Exception as error:  # TFDS meets damaged or foreign JSON in many ways
            raise UserError(
                f"{directory} is no whole prepared dataset ({_first_line(error)}); copy it again, or prepare it again"
            ) from error

    def for_fold(self, fold: int, repeat: int = 0, validates: int = NO_FOLD) -> "PreparedDataset":
        """The dataset with one fold as its test split, another as validation and the others as training.

        Args:
            fold: from 0; `folds.NONE` for a dataset that is not dealt into folds.
            repeat: the deal, from 0.
            validates: the fold that validates; `folds.NONE` for the next one.

        Raises:
            UserError: there is no such fold or deal, one must be chosen, or the manifest of a further deal is not the
                one that was written.
        """
        if not 0 <= repeat < self.repeats:
            raise UserError(
                f"repeat={repeat}: the images of {self.directory} are dealt {self.repeats} time(s), from 0 on; prepare "
                "it with --config.split.repeats for more"
            )
        if not self.folds:
            if fold == validates == folds.NONE:
                return self
            if fold == folds.NONE:
                raise UserError(
                    f"val_fold={validates}: {self.directory} is not dealt into folds; leave it at -1"
                )
            raise UserError(
                f"fold={fold}: {self.directory} is not dealt into folds; prepare it with --config.split.folds=5, "
                f"or leave fold at {folds.NONE}"
            )
        if not 0 <= fold < self.folds:
            raise UserError(
                f"{self.directory} is dealt into {self.folds} folds; say which is tested with --config.fold=0 to "
                f"{self.folds - 1}, not {fold}"
            )
        parts = folds.parts(fold, self.folds, validates)
        if repeat:
            stored = tuple(map(folds.fold_name, range(self.folds)))
            deal = self._deal(repeat)
            places = {split: np.flatnonzero(np.isin(deal, of)) for split, of in parts.items()}
            counts = {split: len(of) for split, of in places.items()}
            everywhere = dict.fromkeys(parts, stored)
            return dataclasses.replace(
                self, splits=counts, folds=0, repeats=1, _parts=everywhere, _places=places
            )
        counts = {split: sum(self.splits[part] for part in of) for split, of in parts.items()}
        return dataclasses.replace(self, splits=counts, folds=0, repeats=1, _parts=parts)

    def _deal(self, repeat: int) -> np.ndarray:
        """The fold of each example in a further deal, in the order in which the folds of the first are stored.

        Raises:
            UserError: the manifest, which says it, is not the one that was written.
        """
        rows = leaks.read_manifest(self.directory) or []
        spec = json.dumps(self.preprocessing, sort_keys=True)
        try:
            found = fingerprints.of_images(rows, spec, self.class_names, self.repeats)
        except KeyError:
            found = ""
        if found != self._content:
            raise UserError(
                f"{self.directory}/manifest.csv says which fold an image is in, and is not the one that was written; "
                "copy it again, or prepare the dataset again"
            )
        names = map(folds.fold_name, range(self.folds))
        return np.asarray(
            [row[folds.column(repeat)] for name in names for row in rows if row["split"] == name]
        )

    def parts(self, split: str) -> dict[str, Examples]:
        """The stored parts that make a split, in order: itself, or folds; see `select`."""
        whole = dataclasses.replace(
            self, splits=dict(self._stored), _parts={name: (name,) for name in self._stored}, _places={}
        )
        return {name: whole.source(name) for name in self._parts[split]}

    def select(self, split: str, examples: Examples) -> Examples:
        """Those examples of a split's stored parts, one after the other, that are of the split: all, or a deal's."""
        places = self._places.get(split)
        return examples if places is None else Some(examples, places)

    def check_divides_nobody(self) -> None:
        """Reads whose images the splits hold, and which groups, from the shards themselves.

        Raises:
            UserError: two splits share a patient or a group, and no mark says so: it was taken away, or the shards are
                of several preparations.
        """
        if self.mark is not None:
            return
        sides = []
        for split in (name for name, count in self.splits.items() if count):
            examples = self._examples(split).identities()
            sides.append(
                [{key: str(example[key]) for key in ("patient_id", "group")} for example in examples]
            )
        for one, other in itertools.combinations(sides, 2):
            found = leaks.between(one, other, ("patient_id", "group"))
            if not found.clean:
                raise UserError(
                    f"{self.directory}: two splits share {found.shared['patient_id']} patients and "
                    f"{found.shared['group']} groups, and the dataset is not marked as leaky: it was changed after "
                    "it was prepared. Prepare it again; --allow_leaky_split if that is meant"
                )

    def source(self, split: str) -> Split | Some:
        """Random access to the examples of a split, without TensorFlow.

        Raises:
            UserError: no such split, it is empty, or its shards are not there.
        """
        if not self.splits.get(split):
            present = ", ".join(f"{name} ({n})" for name, n in self.splits.items())
            raise UserError(f"{self.directory} has no examples in split {split!r}; it has {present}")
        return self._examples(split)

    def everything(self) -> Split:
        """All stored examples, whatever their split, one part after the other.

        Raises:
            UserError: the shards are not there, or hold another number of examples.
        """
        names = tuple(name for name, count in self._stored.items() if count)
        count = sum(self._stored.values())
        whole = dataclasses.replace(self, splits={"all": count}, _parts={"all": names}, _places={})
        return whole._stored_examples("all")

    def _examples(self, split: str) -> Split | Some:
        examples = self._stored_examples(split)
        places = self._places.get(split)
        return examples if places is None else Some(examples, places)

    def _stored_examples(self, split: str) -> Split:
        """The examples of the stored parts of a split, one after the other."""
        dealt = split in self._places
        written = sum(self._stored[part] for part in self._parts[split]) if dealt else self.splits[split]
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
        if found != written:
            raise UserError(
                f"{self.directory}: the shards of split {split!r} hold {found} examples where "
                f"{written} were written; copy them again, or prepare the dataset again"
            )
        return Split(self.directory, split, source, without_images)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__
