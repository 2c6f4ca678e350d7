"""Two runs on the same images: differences that are paired, with intervals over patients."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest, norm

from osteojax.errors import UserError
from osteojax.leaky import Mark, together
from osteojax.metrics.difference import bootstrapped
from osteojax.metrics.intervals import delong, student
from osteojax.metrics.registry import scalars
from osteojax.metrics.sample import Sample
from osteojax.run.predictions import Said, read_predictions


@dataclasses.dataclass(frozen=True)
class Difference:
    """A metric of both runs, and how they differ.

    Attributes:
        first, second: values; None where the data do not define them.
        value, low, high: second less first, with its 95 % interval.
        p: two-sided, of no difference.
    """

    first: float | None
    second: float | None
    value: float | None
    low: float | None
    high: float | None
    p: float | None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What two runs have said of the same images.

    Attributes:
        first, second: workdirs.
        n, patients: of the images.
        metrics: name -> difference, by the bootstrap over patients; "auc_ovr (CLASS)" by DeLong with patients as units.
        only_first, only_second: images that one of them alone has right.
        mcnemar_p: exact two-sided p-value of those (McNemar 1947).
        leaky: the mark, where a leaky split had a part in one of them.
    """

    first: str
    second: str
    n: int
    patients: int
    metrics: dict[str, Difference]
    only_first: int
    only_second: int
    mcnemar_p: float
    leaky: Mark | None

    def to_json(self) -> str:
        """All of it."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"


def compare_runs(first: Path, second: Path, *, split: str = "test", seed: int = 0) -> Comparison:
    """Compares what `osteojax evaluate` has written of two runs.

    Raises:
        UserError: one was not evaluated, or they were not tested on the same images.
    """
    a, b = _read(first, split), _read(second, split)
    mark = together([a.mark, b.mark])
    if a.class_names != b.class_names:
        raise UserError(f"{first} has classes {a.class_names}, {second} {b.class_names}")
    places = {name: place for place, name in enumerate(b.ids)}
    common = sum(name in places for name in a.ids)
    if not common == len(a.ids) == len(b.ids):
        raise UserError(
            f"{first} and {second} were not tested on the same images: {common} are common to "
            f"{len(a.ids)} and {len(b.ids)}; evaluate both on one dataset with --data_dir"
        )
    b = b.at([places[name] for name in a.ids])
    if (a.labels != b.labels).any() or (a.patients != b.patients).any():
        raise UserError(f"{first} and {second} disagree on labels or patients of the same images")
    one, other = a.sample(seed=seed), b.sample(seed=seed)
    weights = one.weightings()
    metrics = {name: _bootstrap(metric.function, one, other, weights) for name, metric in scalars().items()}
    for c, name in enumerate(a.class_names):
        metrics[f"auc_ovr ({name})"] = _delong(one, other, c)
    right = [x.given.predicted == x.given.labels for x in (one, other)]
    only_first, only_second = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    disagreeing = only_first + only_second
    p = binomtest(only_first, disagreeing).pvalue if disagreeing else 1.0
    return Comparison(
        str(first), str(second), len(a.ids), one.patients, metrics, only_first, only_second, float(p), mark
    )


def _read(workdir: Path, split: str) -> Said:
    path = workdir / "eval" / split / "predictions.csv"
    if not path.is_file():
        raise UserError(f"{workdir} was not evaluated on {split!r}; run osteojax evaluate first")
    return read_predictions(path)


def _bootstrap(function: Any, a: Sample, b: Sample, weights: np.ndarray) -> Difference:
    first, second = (function(x.given.weighted(weights)) for x in (a, b))
    return Difference(_number(first[0]), _number(second[0]), *bootstrapped(second - first))


def _delong(a: Sample, b: Sample, c: int) -> Difference:
    positive = a.given.labels == c
    if not positive.any() or positive.all():
        return Difference(None, None, None, None, None, None)
    (first, one), (second, other) = (delong(x.given.probabilities[:, c], positive) for x in (a, b))
    deviation = float(np.sqrt((a.by_patient(other - one) ** 2).sum()))
    value, half = second - first, student(a.patients - 1) * deviation
    p = float(2 * norm.sf(abs(value) / deviation)) if deviation else 1.0
    return Difference(first, second, value, value - half, value + half, p)


def _number(x: float) -> float | None:
    return float(x) if np.isfinite(x) else None


def rows(found: Comparison) -> list[tuple[str, ...]]:
    """The comparison as cells of a table."""

    def number(x: float | None) -> str:
        return "-" if x is None else f"{x:.3f}"

    return [
        (
            name, number(of.first), number(of.second),
            "-" if of.value is None else f"{of.value:+.3f} [{number(of.low)}, {number(of.high)}]", number(of.p),
        )
        for name, of in found.metrics.items()
    ]  # fmt: skip
