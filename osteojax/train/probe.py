"""A linear probe: logistic regression on what a frozen network's last layer takes; validation chooses the penalty.

That is the pooled features, or where the head has more than pooling and one layer what its other layers make of them:
ConvNeXt's norm, MobileNetV3's and VGG's hidden layers stay as the weights have them.

What comes of it is a run like any other: the network with this head, as a checkpoint. A strength of the path stands
where a step of training does: line s of metrics.jsonl is the s-th strength, the checkpoint's step is the chosen one.
"""

import contextlib
import dataclasses
import json
import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from osteojax import config as configs
from osteojax import leaky
from osteojax.data.batches import plan_for
from osteojax.data.dataset import NO_SPLIT, PreparedDataset
from osteojax.devices.mesh import batch_sharding, make_mesh, state_sharding
from osteojax.errors import UserError
from osteojax.files import write_atomically, write_csv
from osteojax.metrics import score as scores
from osteojax.progress import print_table
from osteojax.run.best import BestSoFar
from osteojax.run.checkpoint import Checkpoints
from osteojax.run.learned import write_learned
from osteojax.run.record import MetricsWriter, append_run, run_record
from osteojax.run.state import TrainState
from osteojax.run.workdir import hold, write_config
from osteojax.train import logistic, parameter_groups
from osteojax.train.class_weights import class_weights
from osteojax.train.experiment import Experiment, opened, with_fingerprint
from osteojax.train.prefix import PrefixCache, frozen_prefix
from osteojax.train.start import checkpoint_record, mark_of, start
from osteojax.train.step import Recipe

log = logging.getLogger(__name__)

# Four a decade: from a head that says little beyond the classes' shares to one that is hardly held back.
STRENGTHS = np.logspace(2, -4, 25)
_HEAD = ("head/fc/kernel", "head/fc/bias")


def probe(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Fits the path, chooses by `best.metric` on validation, and saves the chosen head with its network.

    Features are those of `train.cache_prefix`, without augmentation, and share its cache. The test split is not read.

    Args:
        config: as in configs/train/, of which only the head learns; what steps are told (optimizer, epochs,
            augmentation) has no say.
        workdir: where everything is written; a finished probe of this config is left as it is.

    Raises:
        UserError: the config is not one of a probe, the dataset does not fit, or the workdir holds another run.
    """
    experiment, dataset = opened(config)
    check_probe(experiment)
    counts = _class_counts(dataset)
    mesh = make_mesh(experiment.mesh.data, experiment.mesh.fsdp)
    source = dataset.source("train")
    plan = plan_for(batch_sharding(mesh), len(source), experiment.data.batch_size)
    best = BestSoFar(experiment.best.metric, experiment.best.direction, 0)
    with (
        hold(workdir),
        contextlib.closing(
            Checkpoints(workdir / "checkpoints", writes=True, metric=best.metric, mode=best.mode)
        ) as checkpoints,
    ):
        if checkpoints.steps():
            _check_same(workdir, checkpoints, config, dataset)
            return
        begun = start(
            experiment,
            dataset,
            source,
            mesh,
            workdir,
            checkpoints,
            math.ceil(experiment.epochs * plan.steps),
        )
        recipe, architecture = begun.recipe, begun.origin["architecture"]
        check_head(recipe, architecture)

        began = time.perf_counter()
        split = experiment.eval.split
        upto = frozen_prefix(recipe, 0)
        assert upto is not None  # the head alone learns
        cache = PrefixCache(recipe, architecture, begun.state, upto, plan.rows // plan.devices, mesh)
        stored = cache.of(dataset, ["train", split], augmented="")
        (features, labels), (val_features, val_labels) = (
            cache.pre_logits(stored[name]) for name in ("train", split)
        )
        took = {"features_seconds": time.perf_counter() - began}
        began = time.perf_counter()
        weights = np.asarray(class_weights(experiment.loss, counts))[labels]
        path = logistic.path(features, labels, weights, len(counts), STRENGTHS)
        took["path_seconds"] = time.perf_counter() - began

        lines = []
        for number, strength in enumerate(STRENGTHS.tolist()):
            logits = (val_features.astype(np.float64) @ path.kernel[number] + path.bias[number]).astype(
                np.float32
            )
            result = scores.validation_metrics(logits, val_labels)
            best.update(number + 1, result)
            lines.append(
                {"step": number + 1, "strength": strength, "train/loss": float(path.loss[number])}
                | {f"{split}/{name}": value for name, value in result.items()}
            )
        if best.best_step is None:
            raise UserError(
                f"best.metric={best.metric!r} is not defined on split {split!r} of {dataset.directory}; choose another"
            )
        chosen = best.best_step - 1
        _say(lines, best, split, took, path, mark_of(dataset, begun.origin))

        head = dict(zip(_HEAD, (path.kernel[chosen], path.bias[chosen]), strict=True))
        state = _with_head(recipe, begun.state, head, best.best_step, mesh)
        how = {"strength": STRENGTHS[chosen].item(), "chosen_by": f"{split}/{best.metric}"}
        origin = begun.origin | {"probe": how}
        write_config(workdir, configs.to_json(with_fingerprint(config, dataset)))
        if begun.learned is not None:
            write_learned(workdir, begun.learned)
        mark = mark_of(dataset, origin)
        append_run(workdir, run_record() | {"from_step": 0, "origin": origin, leaky.KEY: mark})
        _write_path(workdir, lines, how, mark)
        with contextlib.closing(MetricsWriter(workdir, resume_step=0, mark=mark)) as writer:
            for line in lines:
                writer.metrics(line["step"], {key: value for key, value in line.items() if key != "step"})
            writer.timing(len(lines), took)
            writer.flush()
        record = checkpoint_record(config, dataset, origin, iterator=None, best=best, pending=[])
        checkpoints.save(state, record, _validation(lines[chosen], split))


def check_probe(experiment: Experiment) -> None:
    """Whether the experiment leaves something to choose by, and asks for no other loss than a probe's.

    Raises:
        UserError: one sentence that names the key.
    """
    split, loss = experiment.eval.split, experiment.loss
    if split in (NO_SPLIT, "train"):
        raise UserError(
            f"eval.split={split!r}: a probe's strength is chosen by validation, neither by what it learned from nor by "
            "what it is tested on; name the validation split, as in --config.eval.split=val"
        )
    if loss.name != "cross_entropy" or loss.label_smoothing or experiment.model.head != "softmax":
        raise UserError(
            "a probe is logistic regression: set loss.name=cross_entropy, loss.label_smoothing=0 and "
            f"model.head=softmax, not {loss.name}, {loss.label_smoothing:g} and {experiment.model.head}"
        )
    if experiment.model.attention.blocks > 0:
        raise UserError(
            f"model.attention.blocks={experiment.model.attention.blocks} starts from random weights, and a probe "
            "leaves all but the last layer as it is; set it to 0"
        )
    if experiment.model.covariates or experiment.model.t_score:
        raise UserError(
            "a probe is logistic regression on an image's features alone: leave model.covariates and model.t_score "
            "empty; osteojax baselines joins features with columns"
        )
    if experiment.pretrain:
        raise UserError(
            "pretrain asks for an earlier stage, and a probe is one fit; train that stage by itself and name its "
            "folder with --config.weights"
        )
    if experiment.data.sampling != "all":
        raise UserError(
            f"data.sampling={experiment.data.sampling!r}: a probe sees every example once; set it to 'all', and "
            "loss.class_weights=balanced for equal classes"
        )


def check_head(recipe: Recipe, architecture: str) -> None:
    """Whether the head alone learns, its last layer with it, and tells what that layer takes.

    Raises:
        UserError: it is not so.
    """
    learning = {
        path for step in parameter_groups.phases(recipe.groups)
        for path in parameter_groups.trainable_at(recipe.groups, recipe.labels, step)
    }  # fmt: skip
    head = {path for path in recipe.labels if path.startswith("head/")}
    if not recipe.network.gives_pre_logits:
        raise UserError(
            f"the head of {architecture} does not tell what its last layer takes; give it a method pre_logits, or "
            "choose another model.name"
        )
    if not set(_HEAD) <= learning <= head:
        others = sorted({path.partition("/")[0] for path in learning - head}) or ["only a part of it"]
        raise UserError(
            f"a probe fits the head and nothing else, and in this config learns: {', '.join(others)}; set "
            "--config.preset=head and leave groups empty"
        )


def _class_counts(dataset: PreparedDataset) -> tuple[int, ...]:
    counts = np.bincount(dataset.source("train").labels(), minlength=len(dataset.class_names))
    absent = [name for name, count in zip(dataset.class_names, counts, strict=True) if not count]
    if absent:
        raise UserError(
            f"{dataset.directory} has no training example of {', '.join(absent)}: a probe cannot learn what it never "
            "sees; prepare the dataset with other class_names, or with more images"
        )
    return tuple(counts.tolist())


def _check_same(
    workdir: Path, checkpoints: Checkpoints, config: ml_collections.ConfigDict, dataset: PreparedDataset
) -> None:
    """Says that the probe in the workdir is complete; raises UserError where it is another run."""
    step = checkpoints.best_step()
    record = checkpoints.record(step)
    same = (
        record["config_hash"] == configs.digest(config)
        and record["dataset_fingerprint"] == dataset.fingerprint
    )
    if "probe" not in record["origin"] or not same:
        raise UserError(f"{workdir} holds another run, which stays as it is; give another --workdir")
    log.info("the probe is complete; chosen strength: %g", record["origin"]["probe"]["strength"])


def _with_head(
    recipe: Recipe, state: TrainState, head: Mapping[str, np.ndarray], step: int, mesh: jax.sharding.Mesh
) -> TrainState:
    """The network with another head, as the state behind a step; nothing else of it moved."""
    params = state.params | {path: jnp.asarray(value, jnp.float32) for path, value in head.items()}
    layout = state_sharding(mesh, jax.eval_shape(recipe.init_state, params, state.batch_stats))
    fresh = jax.jit(recipe.init_state, out_shardings=layout)(params, state.batch_stats)
    return dataclasses.replace(fresh, step=jax.device_put(np.int32(step), layout.step))


def _validation(line: Mapping[str, Any], split: str) -> dict[str, float]:
    return {
        key.removeprefix(f"{split}/"): value for key, value in line.items() if key.startswith(f"{split}/")
    }


def _say(
    lines: list[dict[str, Any]],
    best: BestSoFar,
    split: str,
    took: Mapping[str, float],
    path: logistic.Path,
    mark: leaky.Mark | None,
) -> None:
    shown = list(dict.fromkeys(["cross_entropy", best.metric, "balanced_accuracy"]))
    print_table(
        leaky.title(f"the path; * is chosen by {split}/{best.metric}", mark),
        ("strength", "training loss", *(f"{split} {name}" for name in shown), "iterations"),
        [
            (
                f"{line['strength']:.3g}{' *' if line['step'] == best.best_step else ''}",
                f"{line['train/loss']:.4f}",
                *(f"{line[f'{split}/{name}']:.4f}" for name in shown),
                f"{path.iterations[number]}{'' if path.converged[number] else ', not converged'}",
            )
            for number, line in enumerate(lines)
        ],
    )
    if best.best_step in (1, len(lines)):
        log.warning("the chosen strength is the end of the path: a %s one might do better",
                    "stronger" if best.best_step == 1 else "weaker")  # fmt: skip
    log.info(
        "features: %.1f s; path of %d strengths: %.1f s",
        took["features_seconds"],
        len(lines),
        took["path_seconds"],
    )


def _write_path(
    workdir: Path, lines: list[dict[str, Any]], how: Mapping[str, Any], mark: leaky.Mark | None
) -> None:
    if mark is not None:
        how, lines = {**how, leaky.KEY: mark}, [{**line, leaky.KEY: mark["reason"]} for line in lines]
    write_csv(workdir / "path.csv", list(lines[0]), [list(line.values()) for line in lines])
    plain = [{key: None if value != value else value for key, value in line.items()} for line in lines]
    write_atomically(workdir / "path.json", json.dumps({**how, "path": plain}, indent=1) + "\n")
