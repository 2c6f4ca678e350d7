"""The tables and JSON files beside the shards."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.source import Rejected
from osteojax.files import write_atomically, write_csv

_COLUMNS = (
    *("file", "label", "patient_id", "group", "split", "id", "sha256", "pixels", "width", "height", "bits"),
    *("sigma", "noise_warnings", "notes"),
)


@dataclasses.dataclass(frozen=True)
class Row:
    """One prepared image, as `manifest.csv` has it.

    `split` is empty where none was drawn; `sha256` is of the decoded content, `pixels` of the prepared image.
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
    noise_warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)


def write_manifest(path: Path, rows: Sequence[Row]) -> None:
    """Writes one row an image. Metadata columns that would hide one of ours get a trailing underscore."""
    extra = sorted({name for row in rows for name in row.metadata})
    names = {name: f"{name}_" if name in _COLUMNS else name for name in extra}

    def cells(row: Row) -> list[object]:
        own = {
            **vars(row),
            "sigma": f"{row.sigma:.4g}",
            "noise_warnings": ";".join(row.noise_warnings),
            "notes": "; ".join(row.notes),
        }
        return [own[c] for c in _COLUMNS] + [row.metadata.get(name, "") for name in extra]

    write_csv(path, [*_COLUMNS, *names.values()], map(cells, rows))


def write_quarantine(path: Path, rejected: Sequence[Rejected]) -> None:
    """Writes file and reason of everything that was left out; bytes of a name that are no UTF-8 as escapes."""
    write_csv(path, ["file", "reason"], [(r.file, r.reason) for r in rejected])


def write_json(path: Path, content: Any) -> None:
    """Writes indented JSON with a final newline."""
    write_atomically(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def fingerprint(rows: Sequence[Row], spec: str, class_names: Sequence[str]) -> str:
    """SHA-256 over everything that a result on this data set depends on.

    Contents, prepared pixels, labels, patients, groups and splits of all images, the preprocessing spec and the
    order of the classes. The order of rows and where the files lie do not count.
    """
    images = sorted((row.sha256, row.pixels, row.label, row.patient_id, row.group, row.split) for row in rows)
    text = json.dumps([images, spec, list(class_names)], ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
