"""Safetensors files: timm's, Hugging Face's and the project's own."""

import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors

from osteojax.errors import UserError
from osteojax.weights.formats.registry import FORMATS, Format
from osteojax.weights.formats.tensors import StoredTensor, Tensors

_FLOATS = ("F64", "F32", "F16", "BF16")


def read_safetensors(path: Path) -> tuple[Tensors, Mapping[str, str]]:
    """The tensors by name, and the file's metadata.

    Raises:
        UserError: the file is damaged.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            described = {}
            for name in file.keys():  # noqa: SIM118 (a safe_open is no mapping)
                view = file.get_slice(name)
                described[name] = (tuple(view.get_shape()), view.get_dtype())
            metadata = file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path}: damaged, or no safetensors file ({error}); fetch it again") from error
    return {
        name: StoredTensor(shape, dtype, dtype in _FLOATS, functools.partial(_read, path, name))
        for name, (shape, dtype) in described.items()
    }, metadata


def _read(path: Path, name: str) -> np.ndarray:
    with safetensors.safe_open(path, framework="numpy") as file:
        return file.get_tensor(name).astype(np.float32)


def _is_safetensors(head: bytes, path: Path) -> bool:
    """Eight bytes of length, then a JSON object."""
    return head[8:9] == b"{"


FORMATS.register("safetensors")(Format("safetensors file", _is_safetensors, read_safetensors))
