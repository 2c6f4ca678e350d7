"""Variants of a sweep compared on the patients of the test split.

A variant's value is the mean over its seeds. Patients are drawn, the same ones for all variants, so that a difference
is paired: what is hard for one is hard for the other (Efron and Tibshirani 1993, ch. 8 and 16). Of several differences
to the baseline the p-values are corrected by Holm 1979.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from osteojax import leaky
from osteojax.metrics.difference import bootstrapped, holm
from osteojax.metrics.predictions import Predictions
from osteojax.metrics.registry import scalar, scalars
from osteojax.metrics.score import with_intervals
from osteojax.run.predictions import Said, pooled, read_predictions
from osteojax.sweep.plan import Planned, Sweep


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval; None for what the data do not define."""

    value: float | None
    low: float | None
    high: float | None


@dataclasses.dataclass(frozen=True)
class Row:
    """One variant of the comparison.

    Attributes:
        name: of the variant.
        seeds: how many of its runs are finished: of seeds, and of each the deals of its folds.
        n, patients: of the test split.
        metrics: name -> mean over seeds, with its interval over patients.
        spread: name -> standard deviation over seeds; None with one.
        difference: name -> paired difference to the baseline; None for the baseline itself, and where the test
            patients are not the same.
        p: name -> p-value of that difference, corrected by Holm over the variants.
        mark: where a leaky split had a part in it.
    """

    name: str
    seeds: int
    n: int
    patients: int
    metrics: Mapping[str, Estimate]
    spread: Mapping[str, float | None]
    difference: Mapping[str, Estimate] | None
    p: Mapping[str, float] | None
    mark: leaky.Mark | None = None


def compare(sweep: Sweep, out: Path, runs: Sequence[Planned], *, seed: int = 0) -> list[Row]:
    """A row for each variant of which a run is finished, in the order of the sweep.

    Args:
        sweep: what the runs belong to.
        out: folder of the sweep.
        runs: those that are finished.
        seed: of the draws.
    """
    found: dict[str, list[Said]] = {}
    of_seed: dict[tuple[str, int, int], list[Said]] = {}
    for run in runs:
        path = out / run.folder / "eval" / "test" / "predictions.csv"
        of_seed.setdefault((run.variant, run.seed, run.tested.repeat), []).append(read_predictions(path))
    for (name, *_), of_folds in of_seed.items():
        if len(of_folds) == max(1, sweep.folds):  # a seed, and a deal, counts when all its folds are there
            found.setdefault(name, []).append(pooled(of_folds))
    samples = {name: _samples(predicted, seed) for name, predicted in found.items()}
    people = {
        name: sorted({str(x) for one in predicted for x in one.patients}) for name, predicted in found.items()
    }
    base = samples.get(sweep.baseline)
    paired = [
        name
        for name in samples
        if base is not None and name != sweep.baseline and people[name] == people[sweep.baseline]
    ]
    differences = {
        name: {metric: bootstrapped(samples[name][metric] - base[metric]) for metric in scalars()}
        for name in paired
        if base is not None
    }
    p = {
        metric: holm({name: of[metric][3] or 1.0 for name, of in differences.items()}) for metric in scalars()
    }
    rows = []
    for variant in sweep.variants:
        name = variant.name
        if name not in found:
            continue
        of_seeds = {metric: [_value(one, metric) for one in found[name]] for metric in scalars()}
        rows.append(
            Row(
                name=name,
                seeds=len(found[name]),
                n=len(found[name][0].labels),
                patients=len(people[name]),
                metrics=_estimates(found[name]),
                spread={m: float(np.std(v, ddof=1)) if len(v) > 1 else None for m, v in of_seeds.items()},
                difference={metric: Estimate(*known[:3]) for metric, known in differences[name].items()}
                if name in differences
                else None,
                p={metric: p[metric][name] for metric in scalars()} if name in differences else None,
                mark=leaky.together(one.mark for one in found[name]),
            )
        )
    return rows


def _samples(predicted: Sequence[Said], seed: int) -> dict[str, np.ndarray]:
    """Metric -> (weightings,), as of `Sample.weightings`: the mean over seeds of the value, then of each draw.

    The draws depend on the sorted patients alone, and are therefore the same for all variants that have them.
    """
    total: dict[str, list[np.ndarray]] = {metric: [] for metric in scalars()}
    for one in predicted:
        sample = one.sample(seed=seed)
        given = sample.given.weighted(sample.weightings())
        for metric in scalars():
            total[metric].append(np.asarray(scalar(metric).function(given)))
    return {metric: np.mean(values, axis=0) for metric, values in total.items()}


def _estimates(predicted: Sequence[Said]) -> dict[str, Estimate]:
    """Metric -> mean over seeds, with the mean of the seeds' intervals: they test the same patients, so that their
    errors are taken as one."""
    samples = [one.sample() for one in predicted]
    found = {}
    for name, metric in scalars().items():
        entries = [with_intervals(metric, sample)[0] for sample in samples]
        columns = zip(*([entry["value"], *entry["ci95"]] for entry in entries), strict=True)
        found[name] = Estimate(*(None if None in column else float(np.mean(column)) for column in columns))
    return found


def _value(one: Said, metric: str) -> float:
    return float(scalar(metric).function(Predictions.unweighted(one.logits, one.labels))[0])
