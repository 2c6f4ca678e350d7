"""Folds and seeds as one evaluation: the out-of-fold predictions of all folds, each image once a repetition."""

import collections
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from osteojax import folds, leaky
from osteojax.errors import UserError
from osteojax.metrics import score as scores
from osteojax.metrics.registry import scalars
from osteojax.run.predictions import Said, pooled, read_predictions


@dataclasses.dataclass(frozen=True)
class Member:
    """One evaluated run.

    Attributes:
        workdir: of the run.
        metrics: of its metrics.json.
        said: of its predictions.csv.
        seed, fold: of its config; None where there is none.
        repeat, val_fold: the deal that its fold is of, and the fold that validated, as the config has them.
    """

    workdir: Path
    metrics: Mapping[str, Any]
    said: Said
    seed: int | None
    fold: int | None
    repeat: int = 0
    val_fold: int = folds.NONE

    @classmethod
    def read(cls, workdir: Path, split: str) -> "Member":
        """Raises UserError where the run was not evaluated on the split."""
        folder = workdir / "eval" / split
        try:
            metrics = json.loads((folder / "metrics.json").read_text())
            metrics["dataset_fingerprint"]
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"{workdir} was not evaluated on {split!r}; run osteojax evaluate first"
            ) from error
        try:
            config = json.loads((workdir / "config.json").read_text())
        except (OSError, ValueError):
            config = {}
        said = read_predictions(folder / "predictions.csv")
        return cls(
            workdir,
            metrics,
            said,
            config.get("seed"),
            config.get("fold"),
            config.get("repeat", 0),
            config.get("val_fold", folds.NONE),
        )

    def value(self, metric: str) -> float | None:
        """What its evaluation found."""
        return self.metrics.get(metric, {}).get("value")


def pool_runs(workdirs: Sequence[Path], *, split: str = "test", seed: int = 0) -> dict[str, Any]:
    """The metrics of metrics.json over the folds of one or several repetitions.

    Runs on one deal of one dataset, told by its fingerprint, are the folds of a repetition; where they test the same
    images, those of each seed are. The values of several repetitions are averaged, and so are the ends of their
    intervals: they test the same patients, so that their errors are taken as one, and more repetitions do not pass for
    more patients.

    Args:
        workdirs: of evaluated runs.
        split: that was evaluated.
        seed: of the draws.

    Returns:
        Beside the metrics `repetitions`, `folds` of each, `runs` (each with its own figures), and `spread`: metric ->
        standard deviation `over_repetitions` and `over_folds` (the mean of the repetitions'); None with one.

    Raises:
        UserError: one was not evaluated, an image is tested twice in a repetition, or repetitions test other images.
    """
    datasets: dict[tuple[str, int], list[Member]] = collections.defaultdict(list)
    for workdir in workdirs:
        member = Member.read(workdir, split)
        datasets[member.metrics["dataset_fingerprint"], member.repeat].append(member)
    repetitions = [part for members in datasets.values() for part in _repetitions(members)]
    parts = [_once(members) for members in repetitions]
    first = parts[0]
    for part in parts[1:]:
        if set(part.ids) != set(first.ids) or part.class_names != first.class_names:
            raise UserError(
                f"the repetitions test other images ({len(set(part.ids) & set(first.ids))} are common to "
                f"{len(first.ids)} and {len(part.ids)}): prepare them from one source, with another seed each"
            )
    found = [scores.score_sample(part.sample(seed=seed), part.class_names) for part in parts]
    return {
        **averaged(found),
        leaky.KEY: leaky.together(part.mark for part in parts),
        "split": split,
        "repetitions": len(parts),
        "folds": [len(members) for members in repetitions],
        "runs": [
            _figures(member, number) for number, members in enumerate(repetitions) for member in members
        ],
        "spread": {
            metric: {
                "over_repetitions": _deviation([one[metric]["value"] for one in found]),
                "over_folds": _mean(
                    [_deviation([m.value(metric) for m in members]) for members in repetitions]
                ),
            }
            for metric in scalars()
        },
    }


def _repetitions(members: Sequence[Member]) -> list[list[Member]]:
    """All runs on a dataset as one repetition; where an image is tested twice, those of each seed as one."""
    tested = [name for member in members for name in map(str, member.said.ids)]
    if len(set(tested)) == len(tested):
        return [list(members)]
    of_seed: dict[int | None, list[Member]] = collections.defaultdict(list)
    for member in members:
        of_seed[member.seed].append(member)
    return list(of_seed.values())


def _once(members: Sequence[Member]) -> Said:
    """The folds of a repetition as one test."""
    owner: dict[str, Path] = {}
    for member in members:
        for name in map(str, member.said.ids):
            if name in owner:
                raise UserError(
                    f"image {name} is tested by {owner[name]} and by {member.workdir}: give each fold once, of runs "
                    "with --config.fold, and repetitions with --config.seed"
                )
            owner[name] = member.workdir
    return pooled([member.said for member in members])


def _figures(member: Member, repetition: int) -> dict[str, Any]:
    return {
        "workdir": str(member.workdir),
        "repetition": repetition,
        "seed": member.seed,
        "fold": member.fold,
        "repeat": member.repeat,
        "val_fold": member.val_fold,
        "n": len(member.said.labels),
        "patients": len(set(map(str, member.said.patients))),
        **{key: member.metrics.get(key) for key in ("checkpoint_step", "config_hash", "dataset_fingerprint")},
        **{metric: member.metrics[metric] for metric in scalars() if metric in member.metrics},
    }


def _deviation(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.std(known, ddof=1)) if len(known) == len(values) > 1 else None


def averaged(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The mean of several records of metrics: of values and of the ends of intervals; None where one is."""
    result: dict[str, Any] = {}
    for key, value in found[0].items():
        others = [one[key] for one in found]
        if isinstance(value, dict) and set(value) == {"value", "ci95"}:
            result[key] = {
                "value": _mean([one["value"] for one in others]),
                "ci95": [_mean([one["ci95"][end] for one in others]) for end in (0, 1)],
            }
        elif isinstance(value, dict):
            result[key] = averaged(others)
        elif isinstance(value, list):
            result[key] = np.mean(others, axis=0).tolist()
        else:
            result[key] = value
    return result


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None
