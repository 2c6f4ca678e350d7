"""Restores a checkpoint and evaluates it: every example of the split once, every number with its interval."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from osteojax import leaky
from osteojax.data.columns import t_scores
from osteojax.data.dataset import IDENTITY, Example, PreparedDataset
from osteojax.errors import UserError
from osteojax.evaluate import external, trust
from osteojax.evaluate.figures import draw_figures
from osteojax.files import disk_errors, write_atomically
from osteojax.metrics import score as scores
from osteojax.metrics.difference import with_interval
from osteojax.metrics.registry import METRICS
from osteojax.metrics.sample import Sample
from osteojax.metrics.t_score import score_t_scores
from osteojax.progress import print_table
from osteojax.run.consensus import combined, fitted_together
from osteojax.run.fitted import Mirrored, fitted
from osteojax.run.open import Run, open_run
from osteojax.run.origin import told
from osteojax.run.predictions import text, write_predictions

log = logging.getLogger(__name__)


def evaluate_run(
    workdir: Path,
    *,
    split: str = "test",
    step: str = "best",
    data_dir: str | None = None,
    out: Path | None = None,
    allow_overlap: bool = False,
    near_copies: bool = True,
    others: Sequence[Path] = (),
    tta: bool = False,
) -> dict[str, Any]:
    """Evaluates a run, or an ensemble, and writes metrics.json, predictions.csv and figures.

    Config, architecture, class names and preprocessing come from the checkpoint.

    Args:
        workdir: of the run.
        split: of the dataset.
        step: "best" (by validation), "last", or a number.
        data_dir: the prepared dataset; by default the one that the run was trained on.
        out: folder to write to; by default `workdir/eval/<split>`, with the step and the dataset in its name where
            they are not the best one and the run's own.
        allow_overlap: evaluate another dataset although patients or images of it were learned from.
        near_copies: look for near copies of training images in another dataset.
        others: further runs, whose probabilities are averaged with those of the first; `out` is given.
        tta: average with the probabilities of the mirror images, too.

    Raises:
        UserError: no such checkpoint, it is damaged, the dataset was prepared otherwise than the training data, or it
            is another one and holds patients or images that were learned from; a run of an ensemble learned from what
            another is tested on.
    """
    runs = [open_run(place, step) for place in (workdir, *others)]
    run = runs[0]
    dataset = run.dataset(data_dir)
    source = dataset.source(split)
    another = dataset.fingerprint != run.record["dataset_fingerprint"]
    mark = leaky.together([dataset.mark, *(one.mark for one in runs)])
    overlap = _overlap(runs, dataset, split, allowed=allow_overlap, search=near_copies)
    views = (source, Mirrored(source)) if tta else (source,)
    answers = [one.answers(view) for one in runs for view in views]
    logits = combined([said for said, _ in answers])
    given = [score for _, score in answers if score is not None]
    predicted = np.mean(given, axis=0) if len(given) == len(answers) else None
    examples = [{key: value for key, value in example.items() if key != "image"} for example in source]
    labels = np.asarray([example["label"] for example in examples])
    patients = [text(example["patient_id"]) for example in examples]

    sample = Sample.of(logits, labels, patients, seed=run.config.seed)
    metrics = scores.score_sample(sample, run.class_names)
    if metrics["n"] != dataset.splits[split]:
        raise AssertionError(f"{metrics['n']} examples were counted, the dataset has {dataset.splits[split]}")
    believed, without_sets = fitted_together(runs, [fitted(one, mirrored=tta) for one in runs], mirrored=tta)
    probabilities = sample.given.probabilities if believed is None else believed.probabilities(logits)
    metrics |= {
        "calibration": trust.calibration(sample, logits, believed.temperature if believed else None),
        "conformal": trust.conformal(sample, believed, logits, run.class_names) if believed else None,
        "questions": trust.questions(sample, probabilities, believed),
        "external": {"overlap": overlap, "prevalence": external.prevalence(run, sample, probabilities)}
        if another
        else None,
        "subgroups": trust.subgroups(sample, metadata_of(examples)),
        "without_sets": without_sets,
        "ensemble": [
            {
                "workdir": str(one.workdir),
                "checkpoint_step": one.step,
                "config_hash": one.record["config_hash"],
            }
            for one in runs
        ],
        "tta": tta,
        leaky.KEY: mark,
        "split": split,
        "checkpoint_step": run.step,
        "dataset_fingerprint": dataset.fingerprint,
        "config_hash": run.record["config_hash"],
        "origin": run.record["origin"],
    }
    column = str(run.config.model.get("t_score", ""))
    if predicted is not None and column in examples[0]:
        metrics["t_score"] = score_t_scores(predicted, t_scores(examples, column), patients)
    if jax.process_index() == 0:
        folder = out or workdir / "eval" / folder_name(split, run, dataset.fingerprint, tta=tta)
        with disk_errors(folder):
            write_predictions(
                folder / "predictions.csv", examples, logits, run.class_names, mark, t_scores=predicted
            )
            curves = trust.curves(sample, run.class_names) | ({leaky.KEY: mark} if mark else {})
            write_atomically(folder / "curves.json", json.dumps(curves) + "\n")
            draw_figures(folder, logits, labels, metrics, run.class_names)
            write_atomically(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    return metrics


def _overlap(
    runs: Sequence[Run], dataset: PreparedDataset, split: str, *, allowed: bool, search: bool
) -> dict[str, Any] | None:
    """What the runs learned from of a dataset that is not theirs; None where it is that of all.

    Raises:
        UserError: one of them learned from what is tested.
    """
    first = runs[0]
    own: list[Run] = []
    foreign: list[Run] = []
    for run in runs:
        if any(run.record[key] != first.record[key] for key in ("class_names", "preprocessing")):
            raise UserError(
                f"{run.workdir} and {first.workdir} have other classes or another preprocessing; an ensemble is of "
                "runs on one kind of image"
            )
        (own if run.record["dataset_fingerprint"] == dataset.fingerprint else foreign).append(run)
    if len({run.tested[:2] for run in own}) > 1:
        raise UserError(
            f"{', '.join(str(run.workdir) for run in own)} are different folds: what one is tested on, the others "
            "learned from; osteojax pool takes them together"
        )
    # Runs that learned from the same images, and started from the same weights, are asked once.
    distinct = {
        (run.record["dataset_fingerprint"], run.tested, str(run.record["origin"].get("weights"))): run
        for run in foreign
    }
    found = [
        external.check_overlap(run, dataset, split, allowed=allowed, search=search)
        for run in distinct.values()
    ]
    return external.together(found) if found else None


def folder_name(split: str, run: Run, fingerprint: str, *, tta: bool = False) -> str:
    """Where an evaluation is kept: the split's name for the best checkpoint on the run's own dataset, and with the step
    and the dataset's fingerprint where they are others, so that no result is overwritten by another."""
    parts = [split]
    if run.step != run.best_step:
        parts.append(f"step-{run.step}")
    if fingerprint != run.record["dataset_fingerprint"]:
        parts.append(f"data-{fingerprint[:8]}")
    if tta:
        parts.append("tta")
    return "@".join(parts)


def metadata_of(examples: list[Example]) -> dict[str, list[Any]]:
    """Metadata column -> value of each example."""
    names = examples[0].keys() - IDENTITY
    return {name: [example[name] for example in examples] for name in sorted(names)}


def print_scores(metrics: dict[str, Any], *, to: Any = None) -> None:
    """What an evaluation found, as `print_metrics` has it."""
    title = (
        f"{metrics['split']}: {metrics['n']} images, {metrics['patients']} patients, "
        f"step {metrics['checkpoint_step']}, {told(metrics['origin'])}; % [95 % interval]"
    )
    print_metrics(metrics, title, to=to)


def print_metrics(metrics: dict[str, Any], title: str, *, to: Any = None) -> None:
    """Table 1 of the paper, with intervals: precision, recall and F1 of each class, and the accuracy."""

    def show(entry: dict[str, Any]) -> str:
        if entry["value"] is None:
            return "-"
        if None in entry["ci95"]:
            return f"{100 * entry['value']:.1f} [-]"
        low, high = (100 * bound for bound in entry["ci95"])
        return f"{100 * entry['value']:.1f} [{low:.1f}, {high:.1f}]"

    rows = [
        (name, show(of["precision"]), show(of["recall"]), show(of["f1"]), str(of["support"]))
        for name, of in metrics["per_class"].items()
    ]
    print_table(
        leaky.title(title, leaky.of(metrics)), ("class", "precision", "recall", "F1", "support"), rows, to=to
    )
    for name, metric in METRICS.members.items():
        if metric.headline:
            print(f"{name.replace('_', ' '):>18}: {show(metrics[name])} %", file=to)
    if "t_score" in metrics:
        error = metrics["t_score"]["mae"]
        shown = with_interval(error["value"], *error["ci95"])
        print(f"{'T-score, error':>18}: {shown}, mean of {metrics['t_score']['n']} images", file=to)
