"""A directory that `osteojax prep` wrote, opened without TensorFlow."""

import dataclasses
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from osteojax.errors import UserError


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
    """

    directory: Path
    class_names: tuple[str, ...]
    preprocessing: dict[str, Any]
    fingerprint: str
    splits: dict[str, int]
    image_shape: tuple[int, int, int]
    _builder: Any = dataclasses.field(repr=False, compare=False)

    @classmethod
    def open(cls, directory: str | Path) -> "PreparedDataset":
        """Opens a prepared dataset.

        Raises:
            UserError: there is none, or it was not written by `osteojax prep`.
        """
        directory = Path(directory)
        if not (directory / "dataset_info.json").is_file():
            raise UserError(
                f"no prepared dataset in {directory}; make one with: osteojax prep --source=S --out={directory}"
            )
        builder = tfds.builder_from_directory(str(directory))
        metadata = builder.info.metadata
        if not metadata or "preprocessing" not in metadata:
            raise UserError(f"{directory} holds no preprocessing spec; it was not written by `osteojax prep`")
        return cls(
            directory=directory,
            class_names=tuple(builder.info.features["label"].names),
            preprocessing=dict(metadata["preprocessing"]),
            fingerprint=metadata["fingerprint"],
            splits={name: split.num_examples for name, split in builder.info.splits.items()},
            image_shape=tuple(builder.info.features["image"].shape),
            _builder=builder,
        )

    def source(self, split: str) -> Any:
        """Random access to the examples of a split, without TensorFlow.

        Raises:
            UserError: no such split, or it is empty.
        """
        if not self.splits.get(split):
            present = ", ".join(f"{name} ({n})" for name, n in self.splits.items())
            raise UserError(f"{self.directory} has no examples in split {split!r}; it has {present}")
        return self._builder.as_data_source(split)
