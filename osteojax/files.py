"""Files that are whole or absent, and tables that no spreadsheet runs."""

import contextlib
import csv
import errno
import hashlib
import io
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from osteojax.errors import UserError

# What a spreadsheet takes for the beginning of a formula, in their full width too.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def cache_dir() -> Path:
    """Where this program keeps what it can fetch again: `OSTEOJAX_CACHE`, or `~/.cache/osteojax`."""
    return Path(os.environ.get("OSTEOJAX_CACHE") or Path.home() / ".cache" / "osteojax")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file in hex.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check the path") from None


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replaces the file in one step: a reader, or a crash, finds the old text or the new one, never a half.

    Bytes of a name that are no UTF-8 are written as escapes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace"))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def whole_folder(path: Path, *, marker: str) -> Iterator[Path]:
    """An empty folder to fill, which takes the place of `path` once it is whole, and is gone where that fails.

    An earlier one is moved aside for the new one: a reader finds the one or the other, between the two moves neither,
    and never a half.

    Args:
        path: the folder to be.
        marker: a file that tells that what is there already may be replaced.

    Raises:
        UserError: there is a file, or a folder of something else.
    """
    path = path.absolute()
    if path.is_symlink() or path.exists():
        replaceable = path.is_dir() and ((path / marker).is_file() or not any(path.iterdir()))
        if path.is_symlink() or not replaceable:
            raise UserError(f"{path} is there already and holds no {marker}; give another folder")
    new, old = (path.with_name(f".{path.name}.{os.getpid()}.{part}.tmp") for part in ("new", "old"))
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    try:
        yield new
        if path.exists():
            path.rename(old)
        new.rename(path)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Writes a table, atomically, whose cells are all safe to open in a spreadsheet; see `csv_cell`."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([csv_cell(name) for name in header])
    writer.writerows([csv_cell(value) for value in row] for row in rows)
    write_atomically(path, stream.getvalue())


def csv_cell(value: object) -> str:
    """A value as text; one that a spreadsheet would run as a formula is led by an apostrophe, as OWASP advises.

    Numbers stay what they are. `csv_text` takes the apostrophe away again.
    """
    text = "" if value is None else str(value)
    # What looks as if it had one already gets another, or it would lose its own.
    if text.lstrip("'").startswith(_FORMULA) and not _NUMBER.fullmatch(text):
        return "'" + text
    return text


def csv_text(cell: str) -> str:
    """The text that `csv_cell` made the cell of."""
    return cell[1:] if cell.startswith("'") and cell.lstrip("'").startswith(_FORMULA) else cell


@contextlib.contextmanager
def disk_errors(what: object, *, kept: str = "what is finished is kept") -> Iterator[None]:
    """Turns what the disk refuses within into one sentence.

    Args:
        what: is written or read, where the system does not name a file.
        kept: what a full disk does not cost.

    Raises:
        UserError: for any OSError, and for the full disk that a writer in C++ met.
    """
    try:
        yield
    except BrokenPipeError:  # nobody reads our output any more: no disk's affair
        raise
    except OSError as error:
        raise UserError(_refusal(error.errno, error.filename or what, error.strerror, kept)) from error
    except UserError:
        raise
    except Exception as error:  # TensorStore and Riegeli know no errno, only its words
        for code in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO):
            if os.strerror(code) in str(error):
                raise UserError(_refusal(code, what, os.strerror(code), kept)) from error
        raise


def _refusal(code: int | None, what: object, reason: str | None, kept: str) -> str:
    if code in (errno.ENOSPC, errno.EDQUOT):
        return f"no space is left for {what}; free some and start the same command again: {kept}"
    return f"{what}: {reason or 'the disk refuses'}; mend it and start the same command again"
