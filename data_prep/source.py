"""What is to be prepared: class folders or a `labels.csv` to a sorted list of records.

File names and labels are untrusted: a row that cannot be used is rejected with its reason, never followed.
"""

import csv
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from osteojax.errors import UserError

LABELS_FILE = "labels.csv"
SPLITS = ("train", "val", "test")
_SPLIT_ALIASES = {"training": "train", "validation": "val", "valid": "val", "dev": "val", "testing": "test"}
# Left behind by file managers; nobody means them to be images.
_CLUTTER = {"thumbs.db", "desktop.ini"}
_KNOWN_COLUMNS = ("file", "label", "patient_id", "split")


@dataclass(frozen=True)
class Record:
    """One image to prepare.

    Attributes:
      file: path relative to the source, with forward slashes; unique, sorted by.
      label: canonical class name.
      patient_id: as given, or None where the source does not say.
      split: as given ("train", "val" or "test"), or None.
      metadata: the remaining non-empty columns of `labels.csv`.
    """

    file: str
    label: str
    patient_id: str | None = None
    split: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Rejected:
    """One file or row that cannot be used, for `quarantine.csv`."""

    file: str
    reason: str


@dataclass(frozen=True)
class Source:
    """A read source: the folder that files are relative to, what to prepare, and what cannot be."""

    root: Path
    records: tuple[Record, ...]
    rejected: tuple[Rejected, ...]


def read_source(source: str | Path, class_names: Sequence[str], aliases: Mapping[str, str]) -> Source:
    """Lists the images of a source.

    Args:
      source: a folder that holds `labels.csv`, the path of such a file, or a folder of class folders.
      class_names: canonical class names; compared case-insensitively.
      aliases: further names of classes -> canonical name; those of other class lists are passed over.

    Returns:
      Records and rejections, both sorted by file.

    Raises:
      UserError: there is no such source, its table lacks a column, or it names no image at all.
    """
    path = Path(source)
    if not path.exists():
        raise UserError(f"source {path} does not exist; give a folder of class folders or a {LABELS_FILE}")
    table = path / LABELS_FILE if path.is_dir() else path
    classes = _class_lookup(class_names, aliases)
    if table.is_file():
        root = table.parent
        rows = _table_rows(table, classes)
    elif path.is_dir():
        root = path
        rows = _folder_rows(path, classes)
    else:
        raise UserError(f"source {path} is neither a folder nor a table")
    try:
        records, rejected = _check_files(root, rows)
    except OSError as error:
        raise UserError(f"{error.filename or path} cannot be read: {error.strerror}") from None
    if not records and not rejected:
        raise UserError(
            f"no images in {path}; expected {LABELS_FILE} or the class folders {', '.join(class_names)}"
        )
    return Source(root, tuple(records), tuple(rejected))


def _class_lookup(class_names: Sequence[str], aliases: Mapping[str, str]) -> dict[str, str]:
    lookup = {name.lower(): name for name in class_names}
    if len(lookup) != len(class_names):
        raise UserError(f"class_names has a name twice: {', '.join(class_names)}")
    known = {alias.lower(): lookup[name.lower()] for alias, name in aliases.items() if name.lower() in lookup}
    return known | lookup


def _folder_rows(root: Path, classes: Mapping[str, str]) -> Iterator[Record | Rejected]:
    for folder in sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")):
        label = classes.get(folder.name.strip().lower())
        for file in _walk(root, folder):
            if label is None:
                yield Rejected(file, f"class folder {folder.name!r} is none of {', '.join(classes)}")
            else:
                yield Record(file, label)


def _walk(root: Path, folder: Path) -> Iterator[str]:
    """Every entry below a folder that is not itself a real folder; links to folders are not followed."""
    for parent, folders, files in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if not name.startswith(".")]
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        for name in files + links:
            if not name.startswith(".") and name.lower() not in _CLUTTER:
                yield (Path(parent) / name).relative_to(root).as_posix()


def _raise(error: OSError) -> None:
    raise error


def _table_rows(table: Path, classes: Mapping[str, str]) -> Iterator[Record | Rejected]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            yield from _parse_table(table, stream, classes)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{table} is not a UTF-8 CSV file: {error}") from None


def _parse_table(
    table: Path, stream: Iterable[str], classes: Mapping[str, str]
) -> Iterator[Record | Rejected]:
    rows = csv.reader(stream)
    columns = [name.strip().lower() for name in next(rows, [])]
    for needed in ("file", "label"):
        if needed not in columns:
            raise UserError(
                f"{table} has no column {needed!r}; its columns are: {', '.join(columns) or 'none'}"
            )
    if len(set(columns)) != len(columns):
        raise UserError(f"{table} has a column twice: {', '.join(columns)}")
    for cells in rows:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(columns):
            raise UserError(
                f"{table} line {rows.line_num}: {len(cells)} cells, but the header has {len(columns)} columns"
            )
        row = dict(zip(columns, (cell.strip() for cell in cells), strict=True))
        yield _parse_row(row, classes, f"{table} line {rows.line_num}")


def _parse_row(row: Mapping[str, str], classes: Mapping[str, str], where: str) -> Record | Rejected:
    file = PurePosixPath(row["file"]).as_posix() if row["file"] else ""
    if not file:
        raise UserError(f"{where}: the file is empty")
    split = row.get("split", "").lower()
    split = _SPLIT_ALIASES.get(split, split)
    if split and split not in SPLITS:
        raise UserError(f"{where}: split {row['split']!r} is none of {', '.join(SPLITS)}")
    label = classes.get(row["label"].lower())
    if label is None:
        return Rejected(file, f"label {row['label']!r} is none of {', '.join(classes)}")
    return Record(
        file=file,
        label=label,
        patient_id=row.get("patient_id") or None,
        split=split or None,
        metadata={name: value for name, value in row.items() if name not in _KNOWN_COLUMNS and value},
    )


def _check_files(root: Path, rows: Iterator[Record | Rejected]) -> tuple[list[Record], list[Rejected]]:
    """Sorts, and rejects every path that leaves the source and every file that is listed twice."""
    listed: dict[str, list[Record]] = {}
    rejected: list[Rejected] = []
    real_root = root.resolve()
    for row in rows:
        if isinstance(row, Rejected):
            rejected.append(row)
        elif reason := _outside(real_root, row.file):
            rejected.append(Rejected(row.file, reason))
        else:
            listed.setdefault(row.file, []).append(row)
    records = []
    for file, same in listed.items():
        if len({row.label for row in same}) > 1:
            labels = ", ".join(sorted({row.label for row in same}))
            rejected.append(Rejected(file, f"listed {len(same)} times with different labels: {labels}"))
        elif any(row != same[0] for row in same):
            rejected.append(Rejected(file, f"listed {len(same)} times with different details"))
        else:
            records.append(same[0])
    return sorted(records, key=lambda r: r.file), sorted(rejected, key=lambda r: (r.file, r.reason))


def _outside(real_root: Path, file: str) -> str | None:
    """Why a path does not stay within the source, or None. Links may be followed only to the inside."""
    path = PurePosixPath(file)
    if "\0" in file or any("\ud800" <= character <= "\udfff" for character in file):
        return "the path is not valid UTF-8 text"
    if path.is_absolute() or ".." in path.parts or Path(file).is_absolute():
        return "the path leaves the source folder"
    try:
        inside = (real_root / file).resolve().is_relative_to(real_root)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, up to Python 3.12
        return f"the path cannot be resolved: {error}"
    return None if inside else "a link that leaves the source folder"
