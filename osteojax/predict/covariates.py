"""What is known of files beside their images: the table that `osteojax predict --covariates` takes."""

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from osteojax.data.columns import Columns
from osteojax.errors import UserError
from osteojax.files import csv_text

FILE = "file"


class CovariateTable:
    """Columns by file.

    Args:
        wanted: the columns of all networks that are asked.
        rows: real path of a file -> column -> cell.
    """

    def __init__(self, wanted: Sequence[Columns], rows: Mapping[str, Mapping[str, str]]) -> None:
        self._names = tuple(dict.fromkeys(name for columns in wanted for name in columns.names))
        self._rows = rows

    def of(self, file: str) -> dict[str, str]:
        """Column -> cell of a file; empty cells where the table has no row of it."""
        row = self._rows.get(os.path.realpath(file), {})
        return {name: row.get(name, "") for name in self._names}


def read_covariates(path: Path | None, wanted: Sequence[Columns]) -> CovariateTable:
    """Reads the table: a CSV with the column `file`, relative to its own folder, and columns that the networks take.

    A file without a row, a column that the table lacks and an empty cell are missing values.

    Args:
        path: of the table; None where none is given.
        wanted: the columns of the networks that take some.

    Raises:
        UserError: there is none and a network needs one, or the other way round; it cannot be read, has a column that
            no network takes, a cell that does not fit its column, or a file twice.
    """
    names = sorted({name for columns in wanted for name in columns.names})
    if path is None:
        if not names:
            return CovariateTable((), {})
        raise UserError(
            f"the network takes {', '.join(names)} beside the image; give --covariates=CSV with the columns file, "
            f"{', '.join(names)} (an empty cell is a missing value)"
        )
    if not names:
        raise UserError(f"--covariates={path}: the network takes an image alone; leave the table out")
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, restval="")
            given, lines = list(reader.fieldnames or ()), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read ({error}); give a CSV of UTF-8 text") from error
    unknown = [name for name in given if name not in (FILE, *names)]
    if FILE not in given or unknown:
        what = f"no column {FILE}" if FILE not in given else f"the unknown column {unknown[0]!r}"
        raise UserError(
            f"{path} has {what}; its columns are {FILE} and what the network takes: {', '.join(names)}"
        )
    rows: dict[str, dict[str, str]] = {}
    for number, line in enumerate(lines, start=2):
        file = os.path.realpath(path.parent / csv_text(line[FILE]))
        if file in rows:
            raise UserError(f"{path}, line {number}: {line[FILE]} has a row already; keep one of them")
        rows[file] = {name: csv_text(line.get(name, "")) for name in names}
        for columns in wanted:
            try:
                columns.encode([rows[file]])
            except UserError as error:
                raise UserError(f"{path}, line {number}: {error}") from error
    return CovariateTable(wanted, rows)
