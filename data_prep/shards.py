"""The prepared images as a TFDS data set of ArrayRecord shards, written without TensorFlow."""

import contextlib
import dataclasses
import functools
import io
import itertools
import math
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

DATASET_NAME = "radiographs"
VERSION = "1.0.0"
# About 16 MiB a shard at 224x224: a few thousand images give several hosts something to share.
EXAMPLES_PER_SHARD = 256


@dataclasses.dataclass(frozen=True)
class Example:
    """One record: identity and metadata now, pixels when they are written.

    Attributes:
        id: unique key, from the pixels' hash.
        file, patient_id, group: as in the manifest.
        label: class name.
        metadata: column -> text; absent means unknown.
    """

    id: str
    file: str
    label: str
    patient_id: str
    group: str
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)


_FIXED = ("image", "label", "id", "file", "patient_id", "group")


def metadata_columns(examples: Sequence[Example]) -> dict[str, str]:
    """Column of the source -> feature name: lower case, no punctuation, clear of the fixed features."""
    names: dict[str, str] = {}
    for column in sorted({column for example in examples for column in example.metadata}):
        name = re.sub(r"\W+", "_", column.lower()).strip("_") or "column"
        while name in _FIXED or name in names.values():
            name += "_"
        names[column] = name
    return names


def numeric_columns(examples: Sequence[Example], columns: Sequence[str]) -> set[str]:
    """Columns whose every known value is a number that float32 can hold; stored so, unknown as NaN."""
    return {c for c in columns if all(_is_number(e.metadata[c]) for e in examples if c in e.metadata)}


def _is_number(text: str) -> bool:
    try:
        return abs(float(text)) <= float(np.finfo(np.float32).max)  # NaN is not
    except ValueError:
        return False


class _OrderedWriter(tfds.core.writer.ExampleWriter):
    """Writes the features of each example in the order of their names.

    A protocol buffer's map has none, so that two equal runs would give files of other bytes.
    """

    def write(self, path: Any, examples: Any) -> Any:
        """See `tfds.core.writer.ExampleWriter`."""
        ordered = (
            (key, tf_example_pb2.Example.FromString(record).SerializeToString(deterministic=True))
            for key, record in examples
        )
        return super().write(path, ordered)


class Radiographs(tfds.core.ShardBasedBuilder):
    """TFDS builder over examples that are already preprocessed; keeps their order."""

    name = DATASET_NAME
    VERSION = tfds.core.Version(VERSION)
    # Nothing is downloaded. Left to TFDS, looking for checksums needs importlib_resources, which it does not
    # ask for.
    url_infos = None

    def __init__(
        self,
        *,
        splits: Mapping[str, Sequence[Example]],
        load_image: Callable[[Example], np.ndarray],
        image_size: int,
        class_names: Sequence[str],
        description: Mapping[str, object],
        data_dir: Path,
    ) -> None:
        self._splits = splits
        self._load_image = load_image
        self._image_size = image_size
        self._class_names = list(class_names)
        self._description = dict(description)
        everything = [example for examples in splits.values() for example in examples]
        self._columns = metadata_columns(everything)
        self._numeric = numeric_columns(everything, list(self._columns))
        super().__init__(data_dir=str(data_dir), file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        size = self._image_size
        features = {
            "image": tfds.features.Tensor(shape=(size, size, 1), dtype=np.float32, encoding="bytes"),
            "label": tfds.features.ClassLabel(names=self._class_names),
            "id": tfds.features.Text(),
            "file": tfds.features.Text(),
            "patient_id": tfds.features.Text(),
            "group": tfds.features.Text(),
        }
        for column, name in self._columns.items():
            numeric = column in self._numeric
            features[name] = tfds.features.Scalar(dtype=np.float32) if numeric else tfds.features.Text()
        return tfds.core.DatasetInfo(
            builder=self,
            description="Radiographs prepared by osteojax.",
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(self._description),
        )

    def _example_writer(self) -> _OrderedWriter:
        return _OrderedWriter(file_format=self.info.file_format)

    def _shard_iterators_per_split(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, list[Callable[[], Iterator[tuple[str, dict[str, Any]]]]]]:
        del dl_manager
        return {
            name: [functools.partial(self._generate_examples, shard) for shard in even_shards(examples)]
            for name, examples in self._splits.items()
        }

    def _generate_examples(self, examples: Sequence[Example]) -> Iterator[tuple[str, dict[str, Any]]]:
        for example in examples:
            image = self._load_image(example)
            if not np.isfinite(image).all():
                raise ValueError(
                    f"{example.file}: prepared pixels are not finite"
                )  # a defect: never into a shard
            record = {
                "image": image,
                "label": example.label,
                "id": example.id,
                "file": example.file,
                "patient_id": example.patient_id,
                "group": example.group,
            }
            for column, name in self._columns.items():
                text = example.metadata.get(column, "")
                record[name] = np.float32(text or "nan") if column in self._numeric else text
            yield example.id, record


def even_shards(examples: Sequence[Example]) -> list[Sequence[Example]]:
    """Cuts a split into runs of at most EXAMPLES_PER_SHARD examples whose lengths differ by at most one."""
    count = max(1, math.ceil(len(examples) / EXAMPLES_PER_SHARD))
    ends = [round(len(examples) * k / count) for k in range(count + 1)]
    return [examples[start:end] for start, end in itertools.pairwise(ends)]


def write_shards(
    out: Path,
    splits: Mapping[str, Sequence[Example]],
    load_image: Callable[[Example], np.ndarray],
    *,
    image_size: int,
    class_names: Sequence[str],
    description: Mapping[str, object],
) -> None:
    """Writes a data set that opens with `tfds.builder_from_directory(out)` and `.as_data_source(split)`.

    Args:
        out: folder to create; its parent must exist.
        splits: split -> examples in the order in which they are to be stored; none empty.
        load_image: example -> float32 (image_size, image_size, 1).
        image_size: height and width.
        class_names: the label's names in order.
        description: JSON-serialisable; becomes the data set's `info.metadata`.
    """
    scratch = out.parent / (out.name + ".tfds")
    builder = Radiographs(
        splits=splits,
        load_image=load_image,
        image_size=image_size,
        class_names=class_names,
        description=description,
        data_dir=scratch,
    )
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces a download
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    Path(builder.data_path).rename(out)
    shutil.rmtree(scratch)
