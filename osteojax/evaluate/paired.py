"""Two runs on the same images: differences that are paired, with intervals over patients."""

import csv
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest, norm

from osteojax.errors import UserError
from osteojax.files import csv_text
from osteojax.metrics.bootstrap import patient_weights
from osteojax.metrics.intervals import delong, student
from osteojax.metrics.registry import scalars
from osteojax.metrics.sample import Sample

# A probability is written with six digits; its logarithm must be finite.
_SMALLEST = 1e-7


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
    """

    first: str
    second: str
    n: int
    patients: int
    metrics: dict[str, Difference]
    only_first: int
    only_second: int
    mcnemar_p: float

    def to_json(self) -> str:
        """All of it."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"


@dataclasses.dataclass(frozen=True)
class _Said:
    ids: list[str]
    patients: list[str]
    sample: Sample
    class_names: list[str]


def compare_runs(first: Path, second: Path, *, split: str = "test", seed: int = 0) -> Comparison:
    """Compares what `osteojax evaluate` has written of two runs.

    Raises:
        UserError: one was not evaluated, or they were not tested on the same images.
    """
    a, b = (_read(place, split, seed) for place in (first, second))
    if a.class_names != b.class_names:
        raise UserError(f"{first} has classes {a.class_names}, {second} {b.class_names}")
    common = set(a.ids) & set(b.ids)
    if set(a.ids) != set(b.ids) or len(a.ids) != len(b.ids):
        raise UserError(
            f"{first} and {second} were not tested on the same images: {len(common)} are common to "
            f"{len(a.ids)} and {len(b.ids)}; evaluate both on one dataset with --data_dir"
        )
    order = {name: place for place, name in enumerate(b.ids)}
    b = _in_order(b, [order[name] for name in a.ids], seed)
    if (a.sample.given.labels != b.sample.given.labels).any() or a.patients != b.patients:
        raise UserError(f"{first} and {second} disagree on labels or patients of the same images")
    weights = patient_weights(a.patients, seed=seed)
    metrics = {name: _bootstrap(metric.function, a, b, weights) for name, metric in scalars().items()}
    for c, name in enumerate(a.class_names):
        metrics[f"auc_ovr ({name})"] = _delong(a.sample, b.sample, c)
    right = [x.sample.given.predicted == x.sample.given.labels for x in (a, b)]
    only_first, only_second = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    disagreeing = only_first + only_second
    p = binomtest(only_first, disagreeing).pvalue if disagreeing else 1.0
    return Comparison(
        str(first), str(second), len(a.ids), a.sample.patients, metrics, only_first, only_second, float(p)
    )


def _read(workdir: Path, split: str, seed: int) -> _Said:
    path = workdir / "eval" / split / "predictions.csv"
    if not path.is_file():
        raise UserError(f"{workdir} was not evaluated on {split!r}; run osteojax evaluate first")
    try:
        with path.open(newline="") as file:
            found = list(csv.DictReader(file))
        names = [key.removeprefix("p_") for key in found[0] if key.startswith("p_")]
        p = np.asarray([[float(row[f"p_{name}"]) for name in names] for row in found])
        labels = np.asarray([names.index(row["label"]) for row in found])
        ids = [csv_text(row["id"]) for row in found]
        patients = [csv_text(row["patient_id"]) for row in found]
    except (OSError, KeyError, ValueError, IndexError) as error:
        raise UserError(f"{path} is not whole ({error}); evaluate the run again") from error
    return _Said(
        ids, patients, Sample.of(np.log(np.maximum(p, _SMALLEST)), labels, patients, seed=seed), names
    )


def _in_order(said: _Said, places: Sequence[int], seed: int) -> _Said:
    given, rows = said.sample.given, list(places)
    patients = [said.patients[i] for i in rows]
    sample = Sample.of(given.logits[rows], given.labels[rows], patients, seed=seed)
    return _Said([said.ids[i] for i in rows], patients, sample, said.class_names)


def _bootstrap(function: Any, a: _Said, b: _Said, weights: np.ndarray) -> Difference:
    first, second = (function(x.sample.given.weighted(weights)) for x in (a, b))
    drawn = (second - first)[1:]
    drawn = drawn[np.isfinite(drawn)]
    if not np.isfinite(first[0]) or not np.isfinite(second[0]):
        return Difference(_number(first[0]), _number(second[0]), None, None, None, None)
    if not len(drawn):
        return Difference(float(first[0]), float(second[0]), float(second[0] - first[0]), None, None, None)
    low, high = np.percentile(drawn, [2.5, 97.5])
    tail = min((drawn <= 0).sum(), (drawn >= 0).sum())
    p = min(1.0, 2 * (tail + 1) / (len(drawn) + 1))
    return Difference(
        float(first[0]), float(second[0]), float(second[0] - first[0]), float(low), float(high), float(p)
    )


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
