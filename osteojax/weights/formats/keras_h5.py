"""Keras `.h5` files (the format of `keras.applications` and of `model.save("x.h5")`)."""

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from osteojax.errors import UserError
from osteojax.weights.formats.registry import FORMATS, Format
from osteojax.weights.formats.tensors import StoredTensor, Tensors


def read_keras_h5(path: Path) -> Tensors:
    """The weights as "layer/leaf" ("conv1_conv/kernel"), each described without being read.

    Raises:
        UserError: the file is damaged, holds no named layers, or refers to other files.
    """
    try:
        with h5py.File(path, "r") as file:
            # A link here could lead into any file of this machine.
            root = _plain(path, file, "model_weights", h5py.Group) if "model_weights" in file.keys() else file  # noqa: SIM118
            if "layer_names" not in root.attrs:
                raise UserError(
                    f"{path}: no layer names; Keras 3's .weights.h5 numbers its layers: "
                    "load it in Keras and write model.save('x.h5')"
                )
            described = {}
            for layer in _texts(root.attrs["layer_names"]):
                for weight in _texts(_plain(path, root, layer, h5py.Group).attrs.get("weight_names", ())):
                    dataset = _plain(path, root[layer], weight, h5py.Dataset)
                    key = f"{layer}/{weight.rsplit('/', 1)[-1].split(':')[0]}"
                    described[key] = _describe(path, dataset)
    except (OSError, KeyError, ValueError, RuntimeError, TypeError) as error:
        raise UserError(f"{path}: damaged, or no Keras .h5 file ({error})") from error
    return described


def _texts(names: np.ndarray) -> Iterator[str]:
    for name in names:
        yield name.decode() if isinstance(name, bytes) else str(name)


def _plain(path: Path, group: h5py.Group, name: str, kind: type) -> h5py.Group | h5py.Dataset:
    """The member at a relative path, every step of which must lie in this very file."""
    item = group
    for step in name.split("/"):
        if not isinstance(item, h5py.Group) or not isinstance(item.get(step, getlink=True), h5py.HardLink):
            raise UserError(f"{path}: {name} is a link or is missing; weights must lie in the file itself")
        item = item[step]
    if not isinstance(item, kind):
        raise UserError(f"{path}: {name} is no {kind.__name__.lower()}")
    if isinstance(item, h5py.Dataset) and (item.external or item.is_virtual):
        raise UserError(f"{path}: {name} refers to another file; refused")
    if isinstance(item, h5py.Dataset) and item.chunks:
        # Keras writes plain arrays; a compressed chunk can unfold to far more than the array that it holds.
        raise UserError(f"{path}: {name} is chunked or compressed, which Keras never does; refused")
    return item


def _describe(path: Path, dataset: h5py.Dataset) -> StoredTensor:
    location = dataset.name

    def read() -> np.ndarray:
        with h5py.File(path, "r") as file:
            return file[location][()].astype(np.float32)

    return StoredTensor(dataset.shape, dataset.dtype.name, dataset.dtype.kind == "f", read)


FORMATS.register("keras")(
    Format(
        "Keras .h5 file",
        lambda head, path: head.startswith(b"\x89HDF\r\n\x1a\n"),
        lambda path: (read_keras_h5(path), {}),
        keras=True,
    )
)
