"""What a source of features is, and the registry that a row's `sources` choose from."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float

from osteojax.registry import Functions


@dataclasses.dataclass(frozen=True)
class Table:
    """Features of N images.

    Attributes:
        names: F of them.
        values: (N, F) float64; NaN where an image has none. Of a category: its number.
        categorical: (F,) whether a column holds categories, of which neither order nor distance means anything.
        origin: JSON: what a report must say of where they come from.
    """

    names: tuple[str, ...]
    values: Float[np.ndarray, "n features"]
    categorical: Bool[np.ndarray, " features"]
    origin: dict[str, object] = dataclasses.field(default_factory=dict)


def together(tables: list[Table]) -> Table:
    """Several tables of the same images, side by side."""
    return Table(
        tuple(name for table in tables for name in table.names),
        np.concatenate([table.values for table in tables], axis=1),
        np.concatenate([table.categorical for table in tables]),
    )


# `f(examples, settings) -> Table`: the images of a prepared dataset, with their metadata, to their features. A source
# looks at each image by itself and at no label: what is learned from images, the classifier learns from its own.
SOURCES: Functions[Callable[..., Table]] = Functions("source of features")
