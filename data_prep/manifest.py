"""The tables and JSON files beside the shards."""

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.source import Rejected, in_order
from osteojax import fingerprint as fingerprints
from osteojax import folds
from osteojax.files import write_atomically, write_csv

_COLUMNS = (
    *("file", "label", "patient_id", "group", "split", "id", "sha256", "pixels", "width", "height", "bits"),
    *("sigma", "denoising", "noise_warnings", "notes"),
)


@dataclasses.dataclass(frozen=True)
class Row:
    """One prepared image, as `manifest.csv` has it.

    `split` is empty where none was drawn; `sha256` is of the decoded content, `pixels` of the prepared image.
    `denoising` is what was done about the noise (`data_prep.preprocess.Preprocessed`). `repeats`
    are the folds of further deals, in the columns `repeat1`, `repeat2`, ...; `region` whether the joint was found, or
    why not, a column only where it was looked for.
    """

    file: str
    label: str
    patient_id: str
    group: str
    split: str
    id: str
    sha256: str
    pixels: str
    width: int
    height: int
    bits: int
    sigma: float
    denoising: str = "none"
    noise_warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)
    repeats: tuple[str, ...] = ()
    region: str = ""

    @property
    def deals(self) -> dict[str, str]:
        """Column -> fold of each further deal."""
        return {folds.column(number): fold for number, fold in enumerate(self.repeats, start=1)}


def write_manifest(path: Path, rows: Sequence[Row]) -> None:
    """Writes one row an image. Metadata columns that would hide one of ours get a trailing underscore."""
    extra = sorted({name for row in rows for name in row.metadata})
    columns = (
        *_COLUMNS,
        *(("region",) if any(row.region for row in rows) else ()),
        *(rows[0].deals if rows else ()),
    )
    names = {name: f"{name}_" if name in columns else name for name in extra}

    def cells(row: Row) -> list[object]:
        own: dict[str, object] = {
            **vars(row),
            **row.deals,
            "sigma": f"{row.sigma:.4g}",
            "noise_warnings": ";".join(row.noise_warnings),
            "notes": "; ".join(row.notes),
        }
        return [own[c] for c in columns] + [row.metadata.get(name, "") for name in extra]

    write_csv(path, [*columns, *names.values()], map(cells, rows))


def counts_by_split(
    rows: Sequence[Row], class_names: Sequence[str]
) -> list[tuple[str, list[int], list[Row]]]:
    """Each split in order, its images of each class, and its rows."""
    counts = Counter((row.split, row.label) for row in rows)
    return [
        (split, [counts[split, name] for name in class_names], [row for row in rows if row.split == split])
        for split in in_order(row.split for row in rows)
    ]


def write_quarantine(path: Path, rejected: Sequence[Rejected]) -> None:
    """Writes file and reason of everything that was left out; bytes of a name that are no UTF-8 as escapes."""
    write_csv(path, ["file", "reason"], [(r.file, r.reason) for r in rejected])


def write_json(path: Path, content: Any) -> None:
    """Writes indented JSON with a final newline."""
    write_atomically(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def fingerprint(rows: Sequence[Row], spec: str, class_names: Sequence[str]) -> str:
    """See `osteojax.fingerprint.of_images`."""
    images = [{**vars(row), **row.deals} for row in rows]
    repeats = 1 + len(rows[0].repeats) if rows else 1
    return fingerprints.of_images(images, spec, class_names, repeats)
