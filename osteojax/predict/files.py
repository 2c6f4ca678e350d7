"""Radiographs of any supported format as examples, through exactly the preprocessing of a checkpoint."""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from data_prep.preprocess import PreprocessSpec, preprocess_file
from osteojax.data.dataset import Examples
from osteojax.errors import UserError
from osteojax.progress import progress

# As many images as are held at once: those of a folder of thousands come in portions.
PORTION = 256


@dataclasses.dataclass(frozen=True)
class Read:
    """What came of one file.

    Attributes:
        file: its path.
        image: (H, W, C) float32 in [0, 1]; None where it could not be read.
        reason: why it could not; None where it could.
    """

    file: Path
    image: np.ndarray | None
    reason: str | None


def find_files(places: Sequence[Path]) -> list[Path]:
    """The files named, and all below the folders named, each once; hidden ones only where they are named.

    Raises:
        UserError: a place that is not there, or nothing at all.
    """
    found: dict[str, Path] = {}
    for place in places:
        if not place.exists():
            raise UserError(f"{place}: no such file or folder")
        below = sorted(_walk(place)) if place.is_dir() else [place]
        for path in below:
            found.setdefault(os.path.realpath(path), path)
    if not found:
        raise UserError(f"no files in {', '.join(map(str, places))}")
    return list(found.values())


def _walk(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(root) / name for name in names if not name.startswith("."))


def read_files(
    files: Sequence[Path], spec: PreprocessSpec, *, threads: int | None = None
) -> Iterator[list[Read]]:
    """What came of the files, in their order, in portions; with a bar."""

    def read(file: Path) -> Read:
        try:
            return Read(file, preprocess_file(file, spec), None)
        except UserError as error:
            return Read(file, None, str(error).removeprefix(f"{file}: "))

    with ThreadPoolExecutor(threads or os.cpu_count()) as pool, progress("reading", len(files)) as advance:
        for start in range(0, len(files), PORTION):
            portion = []
            for one in pool.map(read, files[start : start + PORTION]):
                portion.append(one)
                advance()
            yield portion


class Images(Examples):
    """Images at hand as the examples of a split, without labels.

    Args:
        images: (N, H, W, C) float32 in [0, 1].
        rows: what is known of each beside the image, column -> cell; by default nothing.
    """

    def __init__(self, images: Float[np.ndarray, "n h w c"], rows: Sequence[Mapping[str, str]] = ()) -> None:
        self._images, self._rows = images, rows

    def __len__(self) -> int:
        return len(self._images)

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The images at these places; 0 for a label, which nothing reads."""
        return [{"image": self._images[index], "label": 0} for index in indices]

    def identities(self) -> list[dict[str, Any]]:
        """See `Examples`."""
        return [dict(row) for row in self._rows]
