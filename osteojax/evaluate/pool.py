"""Cross-validation as one evaluation: the out-of-fold predictions of all folds, each image once a repetition."""

import collections
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from osteojax.errors import UserError
from osteojax.metrics import score as scores
from osteojax.run.predictions import Said, pooled, read_predictions


def pool_runs(workdirs: Sequence[Path], *, split: str = "test", seed: int = 0) -> dict[str, Any]:
    """The metrics of metrics.json over the folds of one or several repetitions.

    Runs on one dataset, told by its fingerprint, are the folds of a repetition. The values of several repetitions are
    averaged, and so are the ends of their intervals: they test the same patients, so that their errors are taken as
    one, and more repetitions do not pass for more patients.

    Args:
        workdirs: of evaluated runs.
        split: that was evaluated.
        seed: of the draws.

    Raises:
        UserError: one was not evaluated, an image is tested twice in a repetition, or repetitions test other images.
    """
    repetitions: dict[str, list[tuple[Path, Said]]] = collections.defaultdict(list)
    for workdir in workdirs:
        folder = workdir / "eval" / split
        try:
            fingerprint = json.loads((folder / "metrics.json").read_text())["dataset_fingerprint"]
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"{workdir} was not evaluated on {split!r}; run osteojax evaluate first"
            ) from error
        repetitions[fingerprint].append((workdir, read_predictions(folder / "predictions.csv")))
    parts = [_once(members) for members in repetitions.values()]
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
        "split": split,
        "repetitions": len(parts),
        "folds": [len(members) for members in repetitions.values()],
    }


def _once(members: Sequence[tuple[Path, Said]]) -> Said:
    """The folds of a repetition as one test."""
    owner: dict[str, Path] = {}
    for workdir, said in members:
        for name in map(str, said.ids):
            if name in owner:
                raise UserError(
                    f"image {name} is tested by {owner[name]} and by {workdir}: give each fold once, of runs with "
                    "--config.fold"
                )
            owner[name] = workdir
    return pooled([said for _, said in members])


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
