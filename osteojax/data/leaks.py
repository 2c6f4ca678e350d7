"""Whether anything of the images that a run learned from is among those tested: patients, groups, pixels."""

import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from osteojax import folds
from osteojax.files import csv_text

_KEYS = ("patient_id", "group", "pixels")


@dataclasses.dataclass(frozen=True)
class Leaks:
    """What two sets of images share.

    Attributes:
        compared: images on the first and the second side.
        shared: key (by default patient_id, group, pixels) -> how many of its values are on both sides.
    """

    compared: tuple[int, int]
    shared: dict[str, int]

    @property
    def clean(self) -> bool:
        """Whether they share nothing."""
        return not any(self.shared.values())


def read_manifest(data_dir: Path) -> list[dict[str, str]] | None:
    """The rows of a prepared dataset's manifest.csv; None where there is none."""
    return read_table(data_dir / "manifest.csv")


def read_table(path: Path) -> list[dict[str, str]] | None:
    """The rows of a table that `write_csv` wrote; None where there is none."""
    if not path.is_file():
        return None
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        return [
            {key: csv_text(value or "") for key, value in row.items() if key} for row in csv.DictReader(file)
        ]


def part(
    rows: list[dict[str, str]],
    split: str,
    fold: int = folds.NONE,
    repeat: int = 0,
    validates: int = folds.NONE,
) -> list[dict[str, str]]:
    """The rows of a split; of a dataset that is dealt into folds, as the run has it that tests `fold` of a deal."""
    names: tuple[str, ...] = (split,)
    if fold != folds.NONE:
        count = folds.fold_count({row["split"] for row in rows})
        names = folds.parts(fold, count, validates).get(split, ())
    column = folds.column(repeat)
    return [row for row in rows if row.get(column) in names]


def between(first: list[dict[str, str]], second: list[dict[str, str]], keys: Sequence[str] = _KEYS) -> Leaks:
    """What two lists of manifest rows share."""
    shared = {}
    for key in keys:
        one, other = ({row[key] for row in rows if row.get(key)} for rows in (first, second))
        shared[key] = len(one & other)
    return Leaks((len(first), len(second)), shared)
