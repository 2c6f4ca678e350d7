"""An exported folder, opened without its run; what stands in it is believed only after it has been checked.

The SHA-256s tell a damaged copy, not a forged one: `model.stablehlo` is a program, though one that only computes.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

from osteojax.errors import UserError
from osteojax.export.describe import FILE, VERSION
from osteojax.export.formats.stablehlo import FILE as PROGRAM
from osteojax.files import sha256_of
from osteojax.storage import check_name

MAX_DESCRIPTION_BYTES = 2**20


@dataclasses.dataclass(frozen=True)
class Exported:
    """An exported network.

    Attributes:
        folder: where it lies.
        class_names: in the order of the logits.
        preprocessing: what made the pixels that it learned from, as `PreprocessSpec.from_dict` reads it.
        image_shape: (H, W, C).
        description: all that `model.json` says.
    """

    folder: Path
    class_names: tuple[str, ...]
    preprocessing: Mapping[str, Any]
    image_shape: tuple[int, int, int]
    description: Mapping[str, Any]
    _program: Callable[[np.ndarray], jax.Array]

    def logits(self, image: np.ndarray) -> np.ndarray:
        """Logits (N, classes) float32 of images (N, H, W, C) float32 in [0, 1]; each new N >= 1 is compiled once.

        Raises:
            ValueError: another shape or dtype.
        """
        if image.shape[1:] != self.image_shape or not len(image) or image.dtype != np.float32:
            expected = ", ".join(map(str, self.image_shape))
            raise ValueError(
                f"images are (N, {expected}) float32 with N >= 1, not {image.shape} {image.dtype}"
            )
        return np.asarray(self._program(image))


def open_exported(folder: str | Path) -> Exported:
    """Opens a folder that `osteojax export` wrote, and checks every file of it.

    Raises:
        UserError: it is no export, is damaged, was written by a later release, or holds no StableHLO program.
    """
    folder = Path(folder)
    description = read_description(folder)
    check_files(folder, description["files"])
    shape = tuple(description["image_shape"])
    if PROGRAM not in description["files"]:
        raise UserError(f"{folder} holds no {PROGRAM}; export the run with --format=stablehlo")
    program = _read_program(folder / PROGRAM, shape, len(description["class_names"]))
    return Exported(
        folder, tuple(description["class_names"]), description["preprocessing"], shape, description, program
    )


def read_description(folder: Path) -> dict[str, Any]:
    """What `model.json` says, each field that is read here of its kind; further fields pass.

    Raises:
        UserError: there is none, it is malformed, or of a later release.
    """
    path = folder / FILE
    try:
        with path.open("rb") as file:
            text = file.read(MAX_DESCRIPTION_BYTES + 1)
    except OSError as error:
        raise UserError(
            f"no exported model in {folder} ({FILE}: {error.strerror}); osteojax export writes one"
        ) from error
    try:
        read = json.loads(text) if len(text) <= MAX_DESCRIPTION_BYTES else None
    except (ValueError, RecursionError):
        read = None
    if not isinstance(read, dict) or read.get("format") != "osteojax-export":
        raise UserError(f"{path} is damaged, or describes no export of osteojax; export the run again")
    if read.get("version") != VERSION:
        raise UserError(
            f"{path} has version {read.get('version')!r:.50}, this release reads {VERSION}; "
            "install the release that wrote it"
        )
    for field, is_sound in _FIELDS.items():
        if field not in read or not is_sound(read[field]):
            raise UserError(f"{path} is damaged: its {field!r} is missing or malformed; export the run again")
    if not is_temperature(read.get("temperature")):
        raise UserError(f"{path} is damaged: its 'temperature' is malformed; export the run again")
    return read


def check_files(folder: Path, files: Mapping[str, str]) -> None:
    """Compares each file's SHA-256 with what is expected.

    Raises:
        UserError: one differs, is missing, or does not lie in the folder itself.
    """
    inside = folder.resolve()
    for name, expected in files.items():
        check_name(name, str(folder / FILE))
        path = folder / name
        if not path.resolve().is_relative_to(inside) or not path.is_file():
            raise UserError(f"{path} is missing, or leads out of the folder; copy or export the model again")
        if sha256_of(path) != expected:
            raise UserError(
                f"{path} is damaged: its SHA-256 is not that of {FILE}; copy or export the model again"
            )


def _read_program(path: Path, image_shape: tuple[int, ...], classes: int) -> Callable:
    try:
        program = export.deserialize(bytearray(path.read_bytes()))
        (image,), (logits,) = program.in_avals, program.out_avals
        fits = image.shape[1:] == image_shape and logits.shape[1:] == (classes,)
        fits = fits and image.dtype == logits.dtype == np.float32
    except Exception as error:  # a parser of foreign bytes
        raise UserError(
            f"{path} cannot be read by this release of JAX ({_first_line(error)}); export it again"
        ) from error
    if not fits:
        raise UserError(f"{path} is another network than {FILE} describes; export the run again")
    return jax.jit(program.call)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _is_names(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) >= 2
        and all(isinstance(name, str) and name for name in value)
        and len(set(value)) == len(value)
    )


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(type(n) is int and n > 0 for n in value)


def _is_files(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest) for digest in value.values()
    )


def is_temperature(value: Any) -> bool:
    """Whether it can divide logits; None where nothing was calibrated."""
    return value is None or (isinstance(value, float) and 0 < value < 1e6)


_FIELDS: Mapping[str, Callable[[Any], bool]] = {
    "class_names": _is_names,
    "image_shape": _is_shape,
    "preprocessing": lambda value: isinstance(value, dict),
    "checkpoint_step": lambda value: type(value) is int and value >= 0,
    "files": _is_files,
}
