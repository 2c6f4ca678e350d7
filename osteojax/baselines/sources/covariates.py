"""Clinical columns: age, sex, body mass index, or any other that the manifest has."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from osteojax.baselines.sources.registry import SOURCES, Table, table
from osteojax.data.columns import as_numbers, cell_text
from osteojax.data.dataset import IDENTITY, Split
from osteojax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Covariates:
    """Which columns; all that the dataset has where none is named."""

    columns: tuple[str, ...] = ()


@SOURCES.function("covariates", settings=Covariates)
def covariates(examples: Split, settings: Covariates) -> Table:
    """The columns as numbers where all that is known of them is numeric, else as categories.

    Raises:
        UserError: the dataset has no such column, or none at all.
    """
    rows = examples.identities()
    present = sorted(rows[0].keys() - IDENTITY)
    absent = [name for name in settings.columns if name not in present]
    if absent or not present:
        raise UserError(
            f"covariates: the dataset has no column {', '.join(absent) or 'beside the images'}; it has "
            f"{', '.join(present) or 'none'}; name columns with --config.settings.covariates.columns, or prepare the "
            "dataset from a labels.csv that has them"
        )
    names = settings.columns or tuple(present)
    columns = [_column([row[name] for row in rows]) for name in names]
    return table(
        names, np.stack([values for values, _ in columns], axis=1), np.asarray([kind for _, kind in columns])
    )


def _column(cells: Sequence[Any]) -> tuple[np.ndarray, bool]:
    """Values (N,) float64, NaN where missing, and whether they are categories."""
    texts = [cell_text(cell) for cell in cells]
    values = as_numbers(texts)
    if values is not None:
        return values, False
    places = {said: float(place) for place, said in enumerate(sorted(set(filter(None, texts))))}
    return np.asarray([places.get(said, np.nan) for said in texts]), True
