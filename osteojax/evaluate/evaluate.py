"""Restores a checkpoint and evaluates it: every example of the split once, every number with its interval."""

import csv
import io
import json
import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np
from scipy.special import softmax

from osteojax import config as configs
from osteojax.data.dataset import PreparedDataset
from osteojax.devices.mesh import batch_sharding, make_mesh, replicated
from osteojax.errors import UserError
from osteojax.evaluate.figures import draw_figures
from osteojax.files import write_atomically
from osteojax.metrics import score as scores
from osteojax.metrics.registry import METRICS
from osteojax.models.build import build_shapes
from osteojax.models.network import Network
from osteojax.progress import print_table
from osteojax.run.checkpoint import Checkpoints, DamagedCheckpoint, shapes_on
from osteojax.run.inference import split_logits
from osteojax.run.preparation import check_same_preparation
from osteojax.train.step import make_eval_step

log = logging.getLogger(__name__)


def evaluate_run(
    workdir: Path, *, split: str = "test", step: str = "best", data_dir: str | None = None
) -> dict[str, Any]:
    """Evaluates a run and writes `workdir/eval/<split>/`: metrics.json, predictions.csv and figures.

    Config, architecture, class names and preprocessing come from the checkpoint.

    Args:
        workdir: of the run.
        split: of the dataset.
        step: "best" (by validation), "last", or a number.
        data_dir: the prepared dataset; by default the one that the run was trained on.

    Raises:
        UserError: no such checkpoint, it is damaged, or the dataset was prepared otherwise than the training data.
    """
    if not (workdir / "checkpoints").is_dir():
        raise UserError(f"no checkpoints in {workdir}; give the --workdir of a training run")
    checkpoints = Checkpoints(workdir / "checkpoints")
    try:
        number, best = choose_step(checkpoints, step), checkpoints.best_step()
        record = checkpoints.record(number)
        config = configs.from_json(record["config"])
        dataset = PreparedDataset.open(data_dir or config.data.dir)
        check_same_preparation(record, dataset)

        mesh = make_mesh()
        network = Network(build_shapes(config, record["origin"]["architecture"], len(record["class_names"])))
        params, batch_stats = network.init()
        like = {"params": params, "batch_stats": batch_stats}
        if "ema" in record["checksums"]:
            like["ema"] = params
        everywhere = jax.tree.map(lambda _: replicated(mesh), like)
        arrays = checkpoints.restore(number, shapes_on(like, everywhere))
    except DamagedCheckpoint as error:
        raise UserError(f"{error}; choose another with --step") from error
    finally:
        checkpoints.close()

    source = dataset.source(split)
    forward = jax.jit(make_eval_step(network), out_shardings=replicated(mesh))
    used = arrays.get("ema", arrays["params"])
    logits = split_logits(
        lambda image: forward(used, arrays["batch_stats"], image),
        source,
        batch_sharding(mesh),
        config.eval.batch_size,
    )
    examples = [{key: value for key, value in example.items() if key != "image"} for example in source]
    labels = np.asarray([example["label"] for example in examples])
    patients = [text(example["patient_id"]) for example in examples]

    metrics = scores.score_predictions(logits, labels, patients, record["class_names"], seed=config.seed)
    metrics |= {
        "split": split,
        "checkpoint_step": number,
        "dataset_fingerprint": dataset.fingerprint,
        "config_hash": record["config_hash"],
        "origin": record["origin"],
    }
    if jax.process_index() == 0:
        out = workdir / "eval" / folder_name(split, number, best, dataset, record)
        write_atomically(out / "predictions.csv", predictions_csv(examples, logits, record["class_names"]))
        draw_figures(out, logits, labels, metrics, record["class_names"])
        write_atomically(out / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    return metrics


def folder_name(split: str, step: int, best: int, dataset: PreparedDataset, record: dict[str, Any]) -> str:
    """Where an evaluation is kept: the split's name for the best checkpoint on the run's own dataset, and with the step
    and the dataset's fingerprint where they are others, so that no result is overwritten by another."""
    parts = [split]
    if step != best:
        parts.append(f"step-{step}")
    if dataset.fingerprint != record["dataset_fingerprint"]:
        parts.append(f"data-{dataset.fingerprint[:8]}")
    return "@".join(parts)


def choose_step(checkpoints: Checkpoints, step: str) -> int:
    """The number of the checkpoint called "best", "last" or by its number.

    Raises:
        UserError: there is no such checkpoint.
    """
    present = checkpoints.steps()
    if step == "best":
        return checkpoints.best_step()
    if step == "last" and present:
        return present[-1]
    if not step.isdigit() or int(step) not in present:
        raise UserError(f"no checkpoint {step!r}; there are best, last, {', '.join(map(str, present))}")
    return int(step)


def text(value: Any) -> str:
    """A string feature, which TFDS gives back as bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)


def predictions_csv(examples: list[dict[str, Any]], logits: np.ndarray, class_names: list[str]) -> str:
    """One row an example: id, patient_id, label, predicted, and the probability of each class."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["id", "patient_id", "label", "predicted", *(f"p_{name}" for name in class_names)])
    for example, row, logit in zip(
        examples, softmax(logits.astype(np.float64), axis=-1), logits, strict=True
    ):
        names = class_names[example["label"]], class_names[int(logit.argmax())]
        writer.writerow(
            [text(example["id"]), text(example["patient_id"]), *names, *(f"{p:.6f}" for p in row)]
        )
    return out.getvalue()


def print_scores(metrics: dict[str, Any], *, to: Any = None) -> None:
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
    start = metrics["origin"]
    title = (
        f"{metrics['split']}: {metrics['n']} images, {metrics['patients']} patients, "
        f"step {metrics['checkpoint_step']}, {start['architecture']} from {start['init']} weights; % [95 % interval]"
    )
    print_table(title, ("class", "precision", "recall", "F1", "support"), rows, to=to)
    for name, metric in METRICS.members.items():
        if metric.headline:
            print(f"{name.replace('_', ' '):>18}: {show(metrics[name])} %", file=to)
