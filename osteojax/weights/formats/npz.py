"""NumPy `.npz` archives of named arrays."""

import io
import zipfile
from pathlib import Path

import numpy as np

from osteojax.errors import UserError
from osteojax.weights.formats.registry import FORMATS, Format
from osteojax.weights.formats.tensors import StoredTensor, Tensors

MAX_HEADER_BYTES = 10_000


def read_npz(path: Path) -> Tensors:
    """The arrays of an archive by name; headers only, values on demand, pickled objects never.

    Raises:
        UserError: the archive is damaged or holds an array of objects.
    """
    try:
        archive = zipfile.ZipFile(path)  # stays open for the values: its directory is read once
        return {
            name.removesuffix(".npy"): _describe(path, archive, name)
            for name in archive.namelist()
            if name.endswith(".npy")
        }
    except (zipfile.BadZipFile, ValueError, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{path}: damaged, or no .npz archive ({error})") from error


def _describe(path: Path, archive: zipfile.ZipFile, name: str) -> StoredTensor:
    with archive.open(name) as file:
        version = np.lib.format.read_magic(file)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read_header is None:
            raise UserError(f"{path}: {name} has the .npy version {version}; weights need 1.0 or 2.0")
        # The header says its own length, up to 4 GB, and NumPy reads it before it looks at the limit.
        width = 2 if version == (1, 0) else 4
        length = file.read(width)
        if int.from_bytes(length, "little") > MAX_HEADER_BYTES:
            raise UserError(f"{path}: {name} claims a header of more than {MAX_HEADER_BYTES} bytes; refused")
        shape, _, dtype = read_header(io.BytesIO(length + file.read(int.from_bytes(length, "little"))))
    if dtype.hasobject:
        raise UserError(f"{path}: {name} holds Python objects, which would have to be unpickled; refused")

    def read() -> np.ndarray:
        with archive.open(name) as file:
            return np.lib.format.read_array(file, allow_pickle=False).astype(np.float32)

    return StoredTensor(shape, dtype.name, dtype.kind == "f", read)


def _is_npz(head: bytes, path: Path) -> bool:
    if not head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return not any(name.endswith("data.pkl") for name in archive.namelist())
    except Exception:  # damaged: by its name, so that the message fits
        return path.suffix == ".npz"


FORMATS.register("npz")(Format(".npz archive", _is_npz, lambda path: (read_npz(path), {})))
