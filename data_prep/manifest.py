"""The tables and JSON files beside the shards."""

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_prep.source import Rejected

_COLUMNS = (
    *("file", "label", "patient_id", "group", "split", "id", "sha256", "width", "height", "bits"),
    *("sigma", "noise_warnings", "notes"),
)


@dataclass(frozen=True)
class Row:
    """One prepared image, as `manifest.csv` has it; `split` is empty where none was drawn."""

    file: str
    label: str
    patient_id: str
    group: str
    split: str
    id: str
    sha256: str
    width: int
    height: int
    bits: int
    sigma: float
    noise_warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)


def write_manifest(path: Path, rows: Sequence[Row]) -> None:
    """Writes one row an image. Metadata columns that would hide one of ours get a trailing underscore."""
    extra = sorted({name for row in rows for name in row.metadata})
    names = {name: f"{name}_" if name in _COLUMNS else name for name in extra}
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([*_COLUMNS, *names.values()])
        for row in rows:
            own = {
                **vars(row),
                "sigma": f"{row.sigma:.4g}",
                "noise_warnings": ";".join(row.noise_warnings),
                "notes": "; ".join(row.notes),
            }
            writer.writerow([own[c] for c in _COLUMNS] + [row.metadata.get(name, "") for name in extra])


def write_quarantine(path: Path, rejected: Sequence[Rejected]) -> None:
    """Writes file and reason of everything that was left out; bytes of a name that are no UTF-8 as escapes."""
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["file", "reason"])
        writer.writerows([r.file, r.reason] for r in rejected)


def write_json(path: Path, content: Any) -> None:
    """Writes indented JSON with a final newline."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def fingerprint(rows: Sequence[Row], spec: str, class_names: Sequence[str]) -> str:
    """SHA-256 over everything that a result on this data set depends on.

    Contents, labels, patients, groups and splits of all images, the preprocessing spec and the order of the
    classes. The order of rows and where the files lie do not count.
    """
    images = sorted((row.sha256, row.label, row.patient_id, row.group, row.split) for row in rows)
    text = json.dumps([images, spec, list(class_names)], ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
