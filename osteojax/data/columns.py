"""Columns of a dataset as numbers: what a network takes beside the image, and the T-score that it learns to give.

All that is learned of a column, its mean and deviation or its categories, is learned from the training split, and goes
with the checkpoint.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from osteojax.data.dataset import IDENTITY, Examples, PreparedDataset
from osteojax.errors import UserError

# Keys of a batch, beside its images.
CLINICAL, T_SCORE = "clinical", "t_score"
# Of a checkpoint's record.
COLUMNS = "columns"
_MISSING = ("", "nan", "none", "na", "n/a", "unknown")
# Names that say it, whatever the case and the punctuation.
_ANSWERS = ("label", "class", "diagnosis", "tscore")
# With fewer known values no mistake is no proof.
_ENOUGH = 20

Row = Mapping[str, Any]


def cell_text(cell: Any) -> str:
    """A cell as text, "" where it is missing; TFDS gives strings back as bytes."""
    said = (cell.decode() if isinstance(cell, bytes) else str(cell)).strip()
    return "" if said.lower() in _MISSING else said


def as_numbers(texts: Sequence[str]) -> Float[np.ndarray, " n"] | None:
    """Values (N,) float64 of texts, NaN where they are missing or infinite; None where one is no number."""
    try:
        values = np.asarray([float(said) if said else np.nan for said in texts], np.float64)
    except ValueError:
        return None
    return np.where(np.isfinite(values), values, np.nan)


@dataclasses.dataclass(frozen=True)
class Column:
    """What the training split says of a column.

    Attributes:
        name: of it.
        known, missing: images with and without a value.
        mean, deviation: of its numbers; of categories 0.
        categories: in order; empty where it holds numbers.
    """

    name: str
    known: int
    missing: int
    mean: float = 0.0
    deviation: float = 0.0
    categories: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, texts: Sequence[str]) -> "Column":
        """Of the training images' cells.

        Raises:
            UserError: all are missing.
        """
        values = as_numbers(texts)
        if values is None:
            known = [said for said in texts if said]
            return cls(name, len(known), len(texts) - len(known), categories=tuple(sorted(set(known))))
        numbers = values[np.isfinite(values)]
        if not len(numbers):
            raise UserError(
                f"model.covariates: no training image has a value of {name!r}; leave that column out"
            )
        # Of one value alone the deviation is rounding.
        deviation = float(numbers.std()) if np.ptp(numbers) > 0 else 0.0
        counts = len(numbers), len(texts) - len(numbers)
        return cls(name, *counts, mean=float(numbers.mean()), deviation=deviation)

    @property
    def width(self) -> int:
        """Numbers that a cell becomes, without the one that says that it is missing."""
        return len(self.categories) or 1

    def encode(self, texts: Sequence[str]) -> Float[np.ndarray, "n width"]:
        """Cells as standardised numbers, or as a 1 in the place of their category; zeros where missing or unheard of.

        Raises:
            UserError: a text where training had numbers.
        """
        if self.categories:
            return np.asarray([[said == one for one in self.categories] for said in texts], np.float32)
        values = as_numbers(texts)
        if values is None:
            strange = next(said for said in texts if said and as_numbers([said]) is None)
            raise UserError(
                f"column {self.name!r} has {strange!r} where the training data have numbers; write a number, or leave "
                "the cell empty"
            )
        # A column of one value says nothing: it stays 0, whatever a later image has there.
        scaled = (values - self.mean) / self.deviation if self.deviation > 0 else np.zeros(len(values))
        return np.where(np.isfinite(values), scaled, 0).astype(np.float32)[:, None]

    def is_unknown(self, texts: Sequence[str]) -> np.ndarray:
        """(N,) whether nothing is known of it: missing, or a category that training has not."""
        if self.categories:
            return np.asarray([said not in self.categories for said in texts])
        values = as_numbers(texts)
        return np.ones(len(texts), bool) if values is None else ~np.isfinite(values)


@dataclasses.dataclass(frozen=True)
class Columns:
    """The columns that a network takes, as its training split has them."""

    columns: tuple[Column, ...]

    @classmethod
    def fit(cls, rows: Sequence[Row], names: Sequence[str], labels: Int[np.ndarray, " n"]) -> "Columns":
        """Of the training images.

        Raises:
            UserError: a column has no value, or tells all classes apart without a mistake.
        """
        found = []
        for name in names:
            texts = [cell_text(row[name]) for row in rows]
            found.append(Column.of(name, texts))
            if _separates(texts, np.asarray(labels)):
                raise UserError(
                    f"model.covariates: {name!r} tells the classes of the training split apart without one mistake, as "
                    "what the labels were made from does; leave it out"
                )
        return cls(tuple(found))

    @property
    def names(self) -> tuple[str, ...]:
        """In order."""
        return tuple(column.name for column in self.columns)

    @property
    def width(self) -> int:
        """F, the numbers that a row becomes."""
        return sum(column.width for column in self.columns) + len(self.columns)

    def encode(self, rows: Sequence[Row]) -> Float[np.ndarray, "n width"]:
        """(N, F) float32: all columns' values, and behind them for each column whether nothing is known of it.

        Raises:
            UserError: the rows have no such column, or a text where training had numbers.
        """
        absent = [name for name in self.names if len(rows) and name not in rows[0]]
        if absent:
            raise UserError(
                f"the network takes the columns {', '.join(self.names)}, and these images have no {', '.join(absent)}; "
                "prepare them from a labels.csv that has it"
            )
        texts = {name: [cell_text(row[name]) for row in rows] for name in self.names}
        values = [column.encode(texts[column.name]) for column in self.columns]
        unknown = [column.is_unknown(texts[column.name])[:, None] for column in self.columns]
        return np.concatenate([*values, *unknown], axis=1, dtype=np.float32)

    def to_record(self) -> list[dict[str, Any]]:
        """JSON."""
        return [dataclasses.asdict(column) for column in self.columns]

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> "Columns | None":
        """Of a checkpoint's record, which has what `to_record` gave under `COLUMNS`; None where it has none."""
        if COLUMNS not in record:
            return None
        return cls(
            tuple(
                Column(**fields | {"categories": tuple(fields["categories"])}) for fields in record[COLUMNS]
            )
        )


def width_of(columns: Columns | None) -> int:
    """Numbers that the columns become; 0 of none."""
    return 0 if columns is None else columns.width


def check_columns(names: Sequence[str], dataset: PreparedDataset, key: str) -> None:
    """Raises UserError where a name is no column of the dataset, or is named twice.

    Args:
        names: of columns.
        dataset: prepared.
        key: of the config, for the message.
    """
    present = dataset.columns
    absent = [name for name in names if name not in present]
    if absent:
        raise UserError(
            f"{key}: {dataset.directory} has no column {', '.join(absent)}; it has {', '.join(present) or 'none'}; "
            "name one of them, or prepare the dataset from a labels.csv that has it"
        )
    if len(set(names)) < len(names):
        raise UserError(f"{key} names a column twice: {', '.join(names)}")


def check_no_answer(names: Sequence[str], target: str) -> None:
    """Raises UserError where one of `model.covariates` is the answer by its name, or is the column that is learned."""
    plain = {name: "".join(filter(str.isalnum, name.lower())) for name in names}
    for name in names:
        if name in IDENTITY or name == target or plain[name] in _ANSWERS:
            raise UserError(
                f"model.covariates: {name!r} is what is to be found out, or tells who it is; name only what is known "
                "of a patient before"
            )


def t_scores(rows: Sequence[Row], column: str) -> Float[np.ndarray, " n"]:
    """(N,) float32 of that column, NaN where it is missing.

    Raises:
        UserError: it holds anything but numbers.
    """
    values = as_numbers([cell_text(row[column]) for row in rows])
    if values is None:
        raise UserError(f"model.t_score: the column {column!r} holds texts; name one of numbers")
    return values.astype(np.float32)


def check_t_scores(rows: Sequence[Row], column: str) -> None:
    """Raises UserError where no training image has a number in the column that is to be learned."""
    if not np.isfinite(t_scores(rows, column)).any():
        raise UserError(
            f"model.t_score: no training image has a value of {column!r}; leave it empty, or fill the column"
        )


def beside(
    source: Examples, columns: Columns | None, t_score: str, rows: Sequence[Row] | None = None
) -> Examples:
    """The examples with what their batches are to have beside the images; themselves where that is nothing.

    Args:
        source: inputs and labels, in the order of `rows`.
        columns: that the network takes.
        t_score: the column that it learns to give; empty for none.
        rows: the examples' columns; by default the source's own.
    """
    if columns is None and not t_score:
        return source
    rows = source.identities() if rows is None else rows
    found: dict[str, np.ndarray] = {}
    if columns is not None:
        found[CLINICAL] = columns.encode(rows)
    if t_score:
        found[T_SCORE] = t_scores(rows, t_score)
    return Beside(source, found)


class Beside(Examples):
    """Examples of a source, with arrays (N, ...) of what each has beside its input."""

    def __init__(self, source: Examples, arrays: Mapping[str, np.ndarray]) -> None:
        self._source, self.beside, self.views = source, arrays, source.views

    def __len__(self) -> int:
        return len(self._source)

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """See `Examples`."""
        return self._source.__getitems__(indices)

    def read(self, indices: Sequence[int], view: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """See `Examples`."""
        return self._source.read(indices, view)

    def element(self) -> tuple[tuple[int, ...], np.dtype]:
        """See `Examples`."""
        return self._source.element()

    def labels(self) -> np.ndarray:
        """See `Examples`."""
        return self._source.labels()

    def identities(self) -> list[dict[str, Any]]:
        """See `Examples`."""
        return self._source.identities()


def _separates(texts: Sequence[str], labels: np.ndarray) -> bool:
    """Whether every class could be read from a column: sorted, each class is one run of it, or of its categories."""
    values = as_numbers(texts)
    known = np.asarray([bool(said) for said in texts]) if values is None else np.isfinite(values)
    classes, of = np.unique(labels), labels[known]
    if known.sum() < _ENOUGH or len(classes) < 2 or len(np.unique(of)) < len(classes):
        return False
    if values is None:
        said = np.asarray(texts)[known]
        return all(len(np.unique(of[said == one])) == 1 for one in np.unique(said))
    low, high = (np.sort([end(values[known][of == c]) for c in classes]) for end in (np.min, np.max))
    return bool((low[1:] > high[:-1]).all())
