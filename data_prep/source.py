"""What is to be prepared: class folders or a `labels.csv` to a sorted list of records.

File names and labels are untrusted: a row that cannot be used is rejected with its reason, never followed; and no file
vanishes: each is a record, is rejected, or is counted in a warning.
"""

import csv
import dataclasses
import errno
import io
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from data_prep.patients import given_id
from osteojax.errors import UserError

LABELS_FILE = "labels.csv"
SPLITS = ("train", "val", "test")


def in_order(splits: Iterable[str]) -> list[str]:
    """Each of these splits once: training, validation, test, then folds by number."""
    known = {name: place for place, name in enumerate(SPLITS)}
    return sorted(set(splits), key=lambda name: (known.get(name, len(known)), len(name), name))


SPLIT_NAMES = {
    **{name: name for name in SPLITS},
    **{"training": "train", "validation": "val", "valid": "val", "dev": "val", "testing": "test"},
}
# Left behind by file managers and file servers; nobody means them to be images. Hidden names are passed over too.
_CLUTTER_FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}
_CLUTTER_FOLDERS = {
    *("__macosx", "@eadir", "@__thumb", "@recycle", "@tmp", "#recycle", "#snapshot", "lost+found"),
    *("$recycle.bin", "system volume information"),
}
_DOCUMENTS = {
    *(
        ".txt",
        ".md",
        ".csv",
        ".tsv",
        ".json",
        ".xml",
        ".html",
        ".pdf",
        ".xls",
        ".xlsx",
        ".doc",
        ".docx",
        ".yaml",
    ),
    *(".yml", ".py", ".ipynb", ".log", ".zip"),
}
# Other headings of the columns that we know. Spaces and dashes count as underscores, case not at all.
_HEADINGS = {
    "file": ("file", "filename", "file_name", "filepath", "file_path", "path", "image", "image_path", "img"),
    "label": ("label", "labels", "class", "class_name", "diagnosis", "category"),
    "patient_id": ("patient_id", "patientid", "patient", "subject_id", "subjectid", "subject", "pid"),
    "split": ("split", "subset", "partition"),
}
_SEPARATORS = (",", ";", "\t", "|")
_NO_VALUE = {"", "nan", "<na>", "#n/a", "nat"}


@dataclasses.dataclass(frozen=True)
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
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Rejected:
    """One file or row that cannot be used, for `quarantine.csv`."""

    file: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Source:
    """A read source: the folder that files are relative to, what to prepare, what cannot be, and what to know."""

    root: Path
    records: tuple[Record, ...]
    rejected: tuple[Rejected, ...]
    warnings: tuple[str, ...] = ()


def read_source(
    source: str | Path,
    class_names: Sequence[str],
    aliases: Mapping[str, str],
    shown: Callable[[str], str] = str,
) -> Source:
    """Lists the images of a source.

    Args:
        source: a folder that holds `labels.csv`, the path of such a file, or a folder of class folders. Folders of
            splits (`train/CLASS`, `CLASS/train`) are read as given splits.
        class_names: canonical class names; compared case-insensitively.
        aliases: further names of classes -> canonical name; those of other class lists are passed over.
        shown: what warnings and reasons call a file or folder of the source.

    Returns:
        Records and rejections, both sorted by file.

    Raises:
        UserError: there is no such source, its table lacks a column, or it names no image at all.
    """
    path = Path(source)
    try:
        exists = path.exists()
    except (OSError, ValueError):
        exists = False
    if not exists:
        raise UserError(f"source {path} does not exist; give a folder of class folders or a {LABELS_FILE}")
    table = path / LABELS_FILE if path.is_dir() else path
    classes = class_lookup(class_names, aliases)
    warnings: list[str] = []
    try:
        if table.is_file():
            root = table.parent
            rows: Iterable[Record | Rejected] = _table_rows(table, classes, warnings, shown)
        elif path.is_dir():
            root = path
            rows = _folder_rows(path, classes, warnings, shown)
        else:
            raise UserError(f"source {path} is neither a folder nor a table")
        records, rejected = _check_files(root, rows)
    except OSError as error:
        raise UserError(f"{error.filename or path} cannot be read: {error.strerror}") from None
    if not records and not rejected:
        raise UserError(
            f"no images in {path}; expected {LABELS_FILE} or the class folders {', '.join(class_names)}"
        )
    return Source(root, tuple(records), tuple(rejected), tuple(warnings))


def class_lookup(class_names: Sequence[str], aliases: Mapping[str, str]) -> dict[str, str]:
    """Folded name or alias -> canonical name.

    Raises:
        UserError: a name that is no text, empty, or there twice.
    """
    for name in (*class_names, *aliases, *aliases.values()):
        if not isinstance(name, str):
            raise UserError(
                f"class_names and class_aliases hold {name!r}, which is no text; quote it, as in "
                "\"--config.class_names=('0', '1', '2')\""
            )
    if not class_names or not all(name.strip() for name in class_names):
        raise UserError("class_names has an empty name, or no name at all; give the classes in their order")
    lookup = {_fold(name): name for name in class_names}
    if len(lookup) != len(class_names):
        raise UserError(f"class_names has a name twice: {', '.join(class_names)}")
    known = {_fold(alias): lookup[_fold(name)] for alias, name in aliases.items() if _fold(name) in lookup}
    return known | lookup


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip().casefold()


def _folder_rows(
    root: Path, classes: Mapping[str, str], warnings: list[str], shown: Callable[[str], str]
) -> Iterator[Record | Rejected]:
    documents = []
    for file in _walk(root):
        folders = [_fold(part) for part in PurePosixPath(file).parts[:-1]]
        label, split = _labelled(folders, classes)
        if label is not None:
            yield Record(file, label, split=split)
        elif not folders and PurePosixPath(file).suffix.lower() in _DOCUMENTS:
            documents.append(file)
        elif not folders:
            yield Rejected(file, "lies beside the class folders, so that its class is not known")
        else:
            named = PurePosixPath(file).parts[1 if folders[0] in SPLIT_NAMES and len(folders) > 1 else 0]
            yield Rejected(file, f"class folder {shown(named)!r} is none of {', '.join(classes)}")
    if documents:
        warnings.append(
            f"{len(documents)} files beside the class folders are no images, such as {shown(documents[0])}"
        )


def _labelled(folders: Sequence[str], classes: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Class and given split by the folders that a file lies in: `CLASS`, `SPLIT/CLASS` or `CLASS/SPLIT`."""
    first, second = [*folders, "", ""][:2]
    if first in classes:
        return classes[first], SPLIT_NAMES.get(second)
    if first in SPLIT_NAMES and second in classes:
        return classes[second], SPLIT_NAMES[first]
    return None, None


def _walk(root: Path) -> Iterator[str]:
    """Every entry below a folder that is not itself a real folder; links to folders are not followed."""
    for parent, folders, files in os.walk(root, onerror=_raise):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f.lower() not in _CLUTTER_FOLDERS)
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        for name in sorted(files + links):
            if not name.startswith(".") and name.lower() not in _CLUTTER_FILES:
                yield (Path(parent) / name).relative_to(root).as_posix()


def _raise(error: OSError) -> None:
    raise error


def _table_rows(
    table: Path, classes: Mapping[str, str], warnings: list[str], shown: Callable[[str], str]
) -> list[Record | Rejected]:
    text = _text(table)
    try:
        rows = list(_parse_table(table, text, classes, warnings))
    except csv.Error as error:
        raise UserError(f"{table} is not a CSV file: {error}") from None
    return _found_on_disk(table, rows, warnings, shown)


def _text(table: Path) -> str:
    data = table.read_bytes()
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        raise UserError(
            f"{table} is not a UTF-8 CSV file: its text is in another encoding; save it as UTF-8"
        ) from None


def _parse_table(
    table: Path, text: str, classes: Mapping[str, str], warnings: list[str]
) -> Iterator[Record | Rejected]:
    separator = _separator(table, text)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    columns = _columns(table, next(rows, []), warnings)
    for cells in rows:
        if not any(cell.strip() for cell in cells):
            continue
        while len(cells) > len(columns) and not cells[-1].strip():
            cells.pop()  # a trailing separator
        if len(cells) != len(columns):
            raise UserError(
                f"{table} line {rows.line_num}: {len(cells)} cells, but the header has {len(columns)} columns"
            )
        row = dict(zip(columns, (cell.strip() for cell in cells), strict=True))
        yield _parse_row(row, classes, f"{table} line {rows.line_num}")


def _separator(table: Path, text: str) -> str:
    """The one under which the header names a file and a label."""
    header = text.partition("\n")[0]
    for separator in _SEPARATORS:
        cells = {_heading(cell) for cell in next(csv.reader([header], delimiter=separator), [])}
        if all(cells & set(_HEADINGS[column]) for column in ("file", "label")):
            return separator
    return ","


def _heading(cell: str) -> str:
    return re.sub(r"[\s\-]+", "_", cell.strip().lower())


def _columns(table: Path, cells: Sequence[str], warnings: list[str]) -> list[str]:
    """Names of the columns: ours by our names, the others in lower case."""
    while cells and not cells[-1].strip():
        cells = cells[:-1]
    columns = [cell.strip().lower() for cell in cells]
    for known, headings in _HEADINGS.items():
        if known in columns:
            continue
        alike = [at for at, cell in enumerate(cells) if _heading(cell) in headings]
        if len(alike) > 1:
            named = ", ".join(repr(cells[at].strip()) for at in alike)
            raise UserError(f"{table}: {named} could each be the {known}; call the right one {known!r}")
        if alike:
            warnings.append(f"column {cells[alike[0]].strip()!r} of {table.name} is taken as {known}")
            columns[alike[0]] = known
    for needed in ("file", "label"):
        if needed not in columns:
            raise UserError(
                f"{table} has no column {needed!r}; its columns are: {', '.join(columns) or 'none'} "
                "(separated by a comma, semicolon, tab or |)"
            )
    if twice := [name for name, count in Counter(columns).items() if count > 1]:
        raise UserError(f"{table} has a column twice: {', '.join(twice)}")
    return columns


def _parse_row(row: Mapping[str, str], classes: Mapping[str, str], where: str) -> Record | Rejected:
    file = PurePosixPath(row["file"]).as_posix() if row["file"] else ""
    if not file:
        raise UserError(f"{where}: the file is empty")
    split = _fold(row.get("split", ""))
    split = "" if split in _NO_VALUE else SPLIT_NAMES.get(split, split)
    if split and split not in SPLITS:
        raise UserError(f"{where}: split {row['split']!r} is none of {', '.join(SPLITS)}")
    label = classes.get(_fold(row["label"]))
    if label is None:
        return Rejected(file, f"label {row['label']!r} is none of {', '.join(classes)}")
    return Record(
        file=file,
        label=label,
        patient_id=given_id(row.get("patient_id", "")),
        split=split or None,
        metadata={
            name: value
            for name, value in row.items()
            if name not in _HEADINGS and name and value.casefold() not in _NO_VALUE
        },
    )


def _found_on_disk(
    table: Path, rows: list[Record | Rejected], warnings: list[str], shown: Callable[[str], str]
) -> list[Record | Rejected]:
    """The rows under the names that the files really have; says what no row names.

    Tables come from other systems: with backslashes, with accents composed otherwise, with other case.
    """
    root = table.parent
    present = [file for file in _walk(root) if file != table.name]
    exact = set(present)
    folded: dict[str, list[str]] = {}
    for key in (_composed, _fold):  # the looser of them fills in what the stricter left free
        for file in present:
            folded.setdefault(key(file), []).append(file)
    found = [_under_its_own_name(row, root, exact, folded, shown) for row in rows]
    other_case = [
        row.file
        for row, real in zip(rows, found, strict=True)
        if isinstance(real, Record) and _composed(row.file.replace("\\", "/")) != _composed(real.file)
    ]
    if other_case:
        warnings.append(
            f"{len(other_case)} files are written in {table.name} in another case than they have, such as "
            f"{shown(other_case[0])}"
        )
    named = {row.file for row in found}
    spare = [f for f in present if f not in named and PurePosixPath(f).suffix.lower() not in _DOCUMENTS]
    if spare:
        warnings.append(
            f"{len(spare)} files of the source are not in {table.name}, such as {shown(spare[0])}"
        )
    return found


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _under_its_own_name(
    row: Record | Rejected,
    root: Path,
    exact: set[str],
    folded: Mapping[str, list[str]],
    shown: Callable[[str], str],
) -> Record | Rejected:
    if isinstance(row, Rejected) or row.file in exact or _outside(root.resolve(), row.file):
        return row
    for name in (row.file, row.file.replace("\\", "/")):
        if name in exact:
            return dataclasses.replace(row, file=name)
        for key in (_composed, _fold):
            candidates = sorted(set(folded.get(key(name), ())))
            if len(candidates) == 1:
                return dataclasses.replace(row, file=candidates[0])
    if os.path.lexists(root / row.file):  # hidden, or a folder: the reader of the file says what is wrong
        return row
    stem = PurePosixPath(row.file.replace("\\", "/")).with_suffix("")
    near = sorted(
        f for f in exact if PurePosixPath(f).with_suffix("") == stem or f.startswith(f"{row.file}.")
    )
    return Rejected(row.file, f"no such file{f'; there is {shown(near[0])}' if near else ''}")


def _check_files(root: Path, rows: Iterable[Record | Rejected]) -> tuple[list[Record], list[Rejected]]:
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
    if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:[\\/]|\\\\", file):
        return "the path leaves the source folder"
    if ".." in file.replace("\\", "/").split("/"):
        return "the path leaves the source folder"
    try:
        _raise_for_loops(real_root / file)  # from Python 3.13 on resolve() passes over them
        inside = (real_root / file).resolve().is_relative_to(real_root)
    except (OSError, RuntimeError):  # RuntimeError: a loop of links, up to Python 3.12
        return "the path cannot be resolved: too long, or a loop of links"
    return None if inside else "a link that leaves the source folder"


def _raise_for_loops(path: Path) -> None:
    """Raises OSError for a loop of links, and for nothing else."""
    try:
        path.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise
