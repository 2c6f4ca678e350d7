"""What a source of features is, and the registry that a row's `sources` choose from."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int

from osteojax.registry import Functions


@dataclasses.dataclass(frozen=True)
class Table:
    """Features of N images.

    Attributes:
        names: F of them.
        values: (N, F) float64; NaN where an image has none. Of a category: its number.
        categorical: (F,) whether a column holds categories, of which neither order nor distance means anything.
        block: (F,) int: of several sources side by side, which one a column is of.
        origin: JSON: what a report must say of where they come from.
    """

    names: tuple[str, ...]
    values: Float[np.ndarray, "n features"]
    categorical: Bool[np.ndarray, " features"]
    block: Int[np.ndarray, " features"]
    origin: dict[str, object] = dataclasses.field(default_factory=dict)

    def at(self, columns: Bool[np.ndarray, " features"]) -> "Table":
        """Some of the columns."""
        names = tuple(name for name, kept in zip(self.names, columns, strict=True) if kept)
        return Table(names, self.values[:, columns], self.categorical[columns], self.block[columns])


def table(
    names: tuple[str, ...], values: np.ndarray, categorical: np.ndarray | None = None, **origin: object
) -> Table:
    """The features of one source: (N, F) `values`, numbers where nothing else is said."""
    kinds = np.zeros(len(names), bool) if categorical is None else categorical
    return Table(names, values, kinds, np.zeros(len(names), int), origin)


def together(tables: list[Table]) -> Table:
    """Several tables of the same images, side by side."""
    return Table(
        tuple(name for one in tables for name in one.names),
        np.concatenate([one.values for one in tables], axis=1),
        np.concatenate([one.categorical for one in tables]),
        np.repeat(np.arange(len(tables)), [len(one.names) for one in tables]),
    )


# `f(examples, settings) -> Table`: the images of a prepared dataset, with their metadata, to their features. A source
# looks at each image by itself and at no label: what is learned from images, the classifier learns from its own.
SOURCES: Functions[Callable[..., Table]] = Functions("source of features")
