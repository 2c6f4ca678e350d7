"""A place that several machines read and write whole files in: a folder that all of them see, or an object store."""

import functools
import secrets
from pathlib import Path
from typing import Protocol

from osteojax import storage
from osteojax.files import disk_errors


class Place(Protocol):
    """What a folder and `storage.Store` have in common."""

    def read(self, name: str) -> bytes | None:
        """The file's content; None where there is none."""

    def write(self, name: str, content: bytes | None) -> bool:
        """Puts a file, whole or not at all, or deletes it (None)."""


class Folder:
    """A place on a disk.

    Args:
        path: of the folder; it is made where it is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, name: str) -> bytes | None:
        """See `Place`."""
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes | None) -> bool:
        """See `Place`; written aside and renamed, so that a killed writer leaves nothing that looks whole."""
        path = self.path / name
        with disk_errors(path.parent):
            if content is None:
                path.unlink(missing_ok=True)
                return True
            path.parent.mkdir(parents=True, exist_ok=True)
            # Machines that share a disk may have processes of one number.
            scratch = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
            try:
                scratch.write_bytes(content)
                scratch.replace(path)
            finally:
                scratch.unlink(missing_ok=True)
        return True


@functools.lru_cache(maxsize=16)
def open_place(where: str | Path) -> Place:
    """The place of that path, or of that `gs://` or `s3://` address.

    Raises:
        UserError: it is no address of a bucket.
    """
    return storage.Store(str(where)) if storage.is_remote(where) else Folder(Path(where))
