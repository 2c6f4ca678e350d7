"""Thumbnails of a whole archive, on disk: with them in memory a hundred thousand images would take 1.6 GiB more."""

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from typing import IO

import numpy as np
from numpy.typing import NDArray

from data_prep.audit.alignment import THUMBNAIL

_BYTES = THUMBNAIL * THUMBNAIL


class Thumbnails:
    """Numbered uint8 (THUMBNAIL, THUMBNAIL), 16 KiB each in a file. Threads may read it together."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def extend(self, thumbnails: Iterable[NDArray[np.uint8]]) -> None:
        """Adds some, numbered on from those that are there."""
        for thumbnail in thumbnails:
            self._file.write(thumbnail.tobytes())
            self._count += 1
        self._file.flush()

    def __getitem__(self, number: int) -> NDArray[np.uint8]:
        """The thumbnail of that number, read-only."""
        stored = os.pread(self._file.fileno(), _BYTES, number * _BYTES)
        return np.frombuffer(stored, np.uint8).reshape(THUMBNAIL, THUMBNAIL)


@contextlib.contextmanager
def thumbnails_on_disk() -> Iterator[Thumbnails]:
    """None as yet; their file lies without a name in the folder for temporary files, and goes with the process."""
    with tempfile.TemporaryFile() as file:
        yield Thumbnails(file)
