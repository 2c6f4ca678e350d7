"""The prepared images as a TFDS data set of ArrayRecord shards, written without TensorFlow."""

import contextlib
import dataclasses
import io
import itertools
import math
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.dataset_builder import FileReaderBuilder
from tensorflow_datasets.core.example_serializer import ExampleSerializer
from tensorflow_datasets.core.writer import ExampleWriter, ShardWriter
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


# Of the features that every data set has, for whoever opens one without this project: `features.json` holds it.
_DOCUMENTATION = {
    "image": tfds.features.Documentation(
        desc="The radiograph, prepared as the metadata's `preprocessing` says; bright is dense.",
        value_range="[0, 1], both ends reached unless the image is constant",
    ),
    "label": tfds.features.Documentation(
        desc="The class: the place of its name among the metadata's `class_names`, from 0."
    ),
    "id": tfds.features.Documentation(
        desc="Unique in the data set: the first 16 hexadecimal digits of the SHA-256 of the decoded pixels and their "
        "shape; -2, -3, ... follows where copies were kept."
    ),
    "file": tfds.features.Documentation(
        desc="Path in the source, with forward slashes, or its pseudonym; the key to manifest.csv."
    ),
    "patient_id": tfds.features.Documentation(
        desc="Whose radiograph it is: as the source's table has it, a pseudonym, or the file where nobody knows."
    ),
    "group": tfds.features.Documentation(
        desc="What the split kept whole: images of one patient, copies of each other, both through others too, "
        "or what the metadata's `split.by` names."
    ),
}
_FIXED = tuple(_DOCUMENTATION)
_WITH_MAP = tfds.features.Documentation(
    desc=f"{_DOCUMENTATION['image'].desc} The second channel is a map of the knee: 1 on bone, 1/2 on joint space, 0 "
    "elsewhere and where no knee was found.",
    value_range="[0, 1]",
)


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


@dataclasses.dataclass(frozen=True)
class Layout:
    """What the records of a data set consist of.

    Attributes:
        image_size: height and width.
        class_names: of the label, in order.
        columns: of the metadata -> feature name.
        numeric: those that are stored as numbers.
        channels: of the images; the second is the map of the region.
    """

    image_size: int
    class_names: tuple[str, ...]
    columns: Mapping[str, str]
    numeric: frozenset[str]
    channels: int = 1

    @classmethod
    def of(
        cls, examples: Sequence[Example], image_size: int, class_names: Sequence[str], channels: int = 1
    ) -> "Layout":
        """The layout that holds all of these."""
        columns = metadata_columns(examples)
        numeric = frozenset(numeric_columns(examples, list(columns)))
        return cls(image_size, tuple(class_names), columns, numeric, channels)

    def features(self) -> tfds.features.FeaturesDict:
        """As TFDS describes them."""
        size, of = self.image_size, _DOCUMENTATION
        features = {
            "image": tfds.features.Tensor(
                shape=(size, size, self.channels),
                dtype=np.float32,
                encoding="bytes",
                doc=of["image"] if self.channels == 1 else _WITH_MAP,
            ),
            "label": tfds.features.ClassLabel(names=list(self.class_names), doc=of["label"]),
            "id": tfds.features.Text(doc=of["id"]),
            "file": tfds.features.Text(doc=of["file"]),
            "patient_id": tfds.features.Text(doc=of["patient_id"]),
            "group": tfds.features.Text(doc=of["group"]),
        }
        for column, name in self.columns.items():
            of_source = f"{column!r} of the source's table or of the file's header"
            if column in self.numeric:
                doc = f"{of_source}: a number, NaN where it is not known."
                features[name] = tfds.features.Scalar(dtype=np.float32, doc=doc)
            else:
                features[name] = tfds.features.Text(doc=f"{of_source}: text, empty where it is not known.")
        return tfds.features.FeaturesDict(features)

    def record(self, example: Example, image: np.ndarray) -> dict[str, Any]:
        """One example's features."""
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
        for column, name in self.columns.items():
            text = example.metadata.get(column, "")
            record[name] = np.float32(text or "nan") if column in self.numeric else text
        return record


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file of a split.

    Attributes:
        split: its name.
        index: of the shard within the split.
        examples: in their order.
    """

    split: str
    index: int
    examples: Sequence[Example]

    @property
    def name(self) -> str:
        """By which it is told from all others of the data set."""
        return f"{self.split}-{self.index:05d}"


class _OrderedWriter(ExampleWriter):
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


def write_shard(
    path: Path, shard: Shard, layout: Layout, load_image: Callable[[Example], np.ndarray]
) -> None:
    """Writes one ArrayRecord file, whose bytes are a function of its examples alone.

    Args:
        path: of the file, on a local disk.
        shard: what it holds.
        layout: of the whole data set.
        load_image: example -> float32 (image_size, image_size, channels).
    """
    features = layout.features()
    serializer = ExampleSerializer(features.get_serialized_info())
    writer = ShardWriter(features, serializer, _OrderedWriter(tfds.core.FileFormat.ARRAY_RECORD))
    writer.write(((e.id, layout.record(e, load_image(e))) for e in shard.examples), tfds.core.Path(path))


class Radiographs(FileReaderBuilder):
    """TFDS builder of shards that are put where it says."""

    name = DATASET_NAME
    VERSION = tfds.core.Version(VERSION)
    # Nothing is downloaded. Left to TFDS, looking for checksums needs importlib_resources, which it does not
    # ask for.
    url_infos = None

    def __init__(
        self,
        *,
        shards: Sequence[Shard],
        layout: Layout,
        put: Callable[[Shard, Path], None],
        description: Mapping[str, object],
        data_dir: Path,
    ) -> None:
        self._shards = shards
        self._layout = layout
        self._put = put
        self._description = dict(description)
        super().__init__(data_dir=str(data_dir), file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Radiographs prepared by osteojax.",
            features=self._layout.features(),
            metadata=tfds.core.MetadataDict(self._description),
        )

    def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
        del dl_manager, download_config
        found = []
        for split, group in itertools.groupby(self._shards, key=lambda shard: shard.split):
            shards = list(group)
            template = self._get_filename_template(split_name=split)
            paths = [template.sharded_filepath(shard_index=s.index, num_shards=len(shards)) for s in shards]
            for shard, path in zip(shards, paths, strict=True):
                self._put(shard, Path(path))
            found.append(
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=[len(shard.examples) for shard in shards],
                    num_bytes=sum(path.stat().length for path in paths),
                    filename_template=template,
                )
            )
        self.info.set_splits(tfds.core.splits.SplitDict(found))


def even_shards(examples: Sequence[Example]) -> list[Sequence[Example]]:
    """Cuts a split into runs of at most EXAMPLES_PER_SHARD examples whose lengths differ by at most one."""
    count = max(1, math.ceil(len(examples) / EXAMPLES_PER_SHARD))
    ends = [round(len(examples) * k / count) for k in range(count + 1)]
    return [examples[start:end] for start, end in itertools.pairwise(ends)]


def make_shards(splits: Mapping[str, Sequence[Example]]) -> list[Shard]:
    """The shards of all splits, in order.

    Args:
        splits: split -> examples in the order in which they are to be stored; none empty.
    """
    return [
        Shard(split, index, examples)
        for split, everything in splits.items()
        for index, examples in enumerate(even_shards(everything))
    ]


def write_shards(
    out: Path,
    splits: Mapping[str, Sequence[Example]],
    load_image: Callable[[Example], np.ndarray],
    *,
    image_size: int,
    class_names: Sequence[str],
    description: Mapping[str, object],
    channels: int = 1,
) -> None:
    """Writes a data set that opens with `tfds.builder_from_directory(out)` and `.as_data_source(split)`.

    Args:
        out: folder to create; its parent must exist.
        splits: split -> examples in the order in which they are to be stored; none empty.
        load_image: example -> float32 (image_size, image_size, channels).
        image_size: height and width.
        class_names: the label's names in order.
        description: JSON-serialisable; becomes the data set's `info.metadata`.
        channels: of the images.
    """
    everything = [e for examples in splits.values() for e in examples]
    layout = Layout.of(everything, image_size, class_names, channels)
    assemble(
        out,
        make_shards(splits),
        layout,
        lambda shard, path: write_shard(path, shard, layout, load_image),
        description,
    )


def assemble(
    out: Path,
    shards: Sequence[Shard],
    layout: Layout,
    put: Callable[[Shard, Path], None],
    description: Mapping[str, object],
) -> None:
    """Makes a data set of its shards.

    Args:
        out: folder to create; its parent must exist.
        shards: of each split one after the other.
        layout: of their records.
        put: puts a shard's file at a path.
        description: JSON-serialisable; becomes the data set's `info.metadata`.
    """
    scratch = out.parent / (out.name + ".tfds")
    builder = Radiographs(shards=shards, layout=layout, put=put, description=description, data_dir=scratch)
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces a download
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    Path(builder.data_path).rename(out)
    shutil.rmtree(scratch)
