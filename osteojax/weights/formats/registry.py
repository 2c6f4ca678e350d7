"""What a format of weights files is, and the registry of those that are read.

A file is told by its first bytes, not by its name: what was fetched may be an error page, a `.ckpt` may be anything.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from osteojax.errors import UserError
from osteojax.registry import Registry
from osteojax.weights.formats.tensors import StoredTensor, Tensors

HEAD_BYTES = 512


@dataclasses.dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        name: for messages.
        recognises: from a file's first bytes and its path, whether it is of this format.
        read: tensors by name, and the file's own metadata. What it raises tells that the file is damaged.
        keras: whether names and shapes are Keras's, not PyTorch's.
    """

    name: str
    recognises: Callable[[bytes, Path], bool]
    read: Callable[[Path], tuple[Tensors, Mapping[str, str]]]
    keras: bool = False


FORMATS: Registry[Format] = Registry("format of weights")

# What is taken for weights by mistake: first bytes, and what to say.
_STRANGERS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"),
    (b"<!doctype", "a web page, not weights; fetch the file itself"),
    (b"<html", "a web page, not weights; fetch the file itself"),
    (b"\x1f\x8b", "compressed by gzip; unpack it first"),
    (b"BZh", "compressed by bzip2; unpack it first"),
    (b"\xfd7zXZ", "compressed by xz; unpack it first"),
    (b"7z\xbc\xaf", "a 7-Zip archive; unpack it first"),
    (b"Rar!", "a RAR archive; unpack it first"),
    (b"{", "JSON, not weights; name the file that holds the tensors"),
)


def format_of(path: Path) -> Format:
    """The format of a file.

    Raises:
        UserError: it is of none that is read; the sentence says what it is where that can be told.
    """
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    for candidate in FORMATS.members.values():
        if candidate.recognises(head, path):
            return candidate
    if not head:
        raise UserError(f"{path} is empty; fetch it again")
    for start, meaning in _STRANGERS:
        if head.lstrip().lower().startswith(start.lower()):
            raise UserError(f"{path} is {meaning}")
    if head.isascii() and b"\0" not in head:
        raise UserError(f"{path} is text, not weights; fetch the file itself")
    raise UserError(
        f"{path} is no weights file that is read here: PyTorch (.pth, .pt, .bin, .ckpt), .npz, .safetensors, Keras .h5"
        "; it may be damaged, or a TensorFlow checkpoint, which its own framework must convert"
    )


def read(path: Path) -> tuple[Format, Tensors, Mapping[str, str]]:
    """The format of a file, its tensors by name, and its metadata.

    Raises:
        UserError: as of `format_of`, or the file is damaged or hostile.
    """
    found = format_of(path)
    try:
        tensors, metadata = found.read(path)
        return found, {name: _guarded(path, name, tensor) for name, tensor in tensors.items()}, metadata
    except UserError:
        raise
    except Exception as error:  # parsers of untrusted bytes fail in every way there is
        raise UserError(
            f"{path} is damaged, or no {found.name}: {_sentence(error)}; fetch it again"
        ) from error


def _guarded(path: Path, name: str, tensor: StoredTensor) -> StoredTensor:
    """The tensor, whose every failure to be read is a UserError that names it."""

    def read_values() -> np.ndarray:
        try:
            values = tensor.read()
        except UserError:
            raise
        except Exception as error:  # decompressors of untrusted bytes
            raise UserError(f"{path}: {name} is damaged ({_sentence(error)}); fetch it again") from error
        if values.shape != tensor.shape:
            raise UserError(
                f"{path}: {name} is damaged: it holds {values.shape} where it says {tensor.shape}"
            )
        return values

    return dataclasses.replace(tensor, read=read_values)


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
