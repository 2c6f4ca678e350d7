"""What each class counts in the loss, from how often it occurs in the training split."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from osteojax.data.dataset import Examples
from osteojax.errors import UserError
from osteojax.train.experiment import LossSection
from osteojax.train.losses.registry import LOSSES


def class_counts(section: LossSection, class_names: Sequence[str], source: Examples) -> tuple[int, ...]:
    """Examples of each class in the training split; all 1 where nothing of the loss asks for them.

    Raises:
        UserError: they are asked for, and a class has none.
    """
    if section.class_weights == "none" and not asks_for_counts(section):
        return (1,) * len(class_names)
    counts = np.bincount(source.labels(), minlength=len(class_names))
    if not counts.all():
        asking = (
            f"loss.name={section.name!r}"
            if section.class_weights == "none"
            else f"loss.class_weights={section.class_weights!r}"
        )
        raise UserError(f"{asking} needs training examples of every class; counts are {counts.tolist()}")
    return tuple(counts.tolist())


def asks_for_counts(section: LossSection) -> bool:
    """Whether the named loss has a setting `class_counts`, which the run fills in."""
    fields = dataclasses.fields(LOSSES.get(section.name).settings)
    return any(field.name == "class_counts" for field in fields)


def class_weights(section: LossSection, counts: Sequence[int]) -> tuple[float, ...]:
    """Weight of each class in the loss.

    "none": 1. "balanced": n / (K n_c), inversely to the frequency. "effective": inversely to the effective number of
    examples (1 - beta^n_c) / (1 - beta), scaled to sum to K (Cui et al. 2019, eq. 2 and section 4); beta = 0 is
    "none", and beta towards 1 the inverse frequency.
    """
    n = np.asarray(counts, np.float64)
    if section.class_weights == "none":
        return (1.0,) * len(n)
    if section.class_weights == "balanced":
        return tuple((n.sum() / (len(n) * n)).tolist())
    inverse = 1 / -np.expm1(n * np.log(section.beta)) if section.beta > 0 else np.ones(len(n))
    return tuple((len(n) * inverse / inverse.sum()).tolist())
