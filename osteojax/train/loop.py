"""One training run, from a config to checkpoints; started again on the same workdir, it goes on where it was."""

import contextlib
import functools
import logging
import math
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils

from osteojax import config as configs
from osteojax.data.batches import plan_for, to_devices, train_iterator
from osteojax.data.dataset import PreparedDataset
from osteojax.devices.mesh import batch_sharding, make_mesh, replicated, state_sharding
from osteojax.errors import UserError
from osteojax.files import write_atomically
from osteojax.metrics import score as scores
from osteojax.models.build import build_shapes
from osteojax.models.network import Network
from osteojax.progress import TrainingProgress, print_table
from osteojax.run.best import BestSoFar
from osteojax.run.checkpoint import ARRAYS, Checkpoints, DamagedCheckpoint, shapes_on
from osteojax.run.inference import split_logits
from osteojax.run.record import MetricsWriter, append_run, run_record
from osteojax.run.state import TrainState
from osteojax.train import parameter_groups
from osteojax.train.clock import Clock
from osteojax.train.initialise import initialise
from osteojax.train.optimizer import make_schedule
from osteojax.train.step import Recipe, make_eval_step, make_train_step

log = logging.getLogger(__name__)


# Settings that change no result: they may differ between the starts of a run.
_WITHOUT_EFFECT = {"data.dir", "data.threads", "log_every", "checkpoint.keep", "eval.batch_size"}


class Diverged(UserError):
    """The loss is no longer a number."""


class Preempted(Exception):
    """The run was asked to stop (SIGTERM), has saved, and can be started again."""


def train(
    config: ml_collections.ConfigDict, workdir: Path, *, force: bool = False, profile: bool = False
) -> None:
    """Trains, validates and saves.

    Args:
        config: as in configs/.
        workdir: where everything is written; may hold an earlier part of the same run.
        force: go on although the config is not the one that the run was started with.
        profile: write an XProf trace of steps 10 to 14 of this start to `workdir/profile`.

    Raises:
        UserError: the config, the dataset or the workdir does not fit.
        Diverged: the loss became NaN or infinite.
        Preempted: after SIGTERM, once the state is saved.
    """
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp)
    by_row = batch_sharding(mesh)
    dataset = PreparedDataset.open(config.data.dir)
    source = dataset.source("train")
    plan = plan_for(by_row, len(source), config.data.batch_size)
    total_steps = math.ceil(config.epochs * plan.steps)
    eval_every = config.eval.every_steps or plan.steps
    save_every = config.checkpoint.every_steps or eval_every
    # The paper's 80:20 split has no validation set: then nothing is validated and the last step counts as best.
    validation = dataset.source(config.eval.split) if dataset.splits.get(config.eval.split) else None
    val_labels = read_labels(validation) if validation else None

    claim_workdir(workdir, config, dataset, force=force)
    checkpoints = Checkpoints(
        workdir / "checkpoints", metric=config.best.metric, mode=config.best.mode, keep=config.checkpoint.keep
    )

    recipe, state, saved = start(config, dataset, source, mesh, checkpoints, total_steps)
    step, pending, best = saved["step"], saved["pending"], BestSoFar(**saved["best"])
    iterator = train_iterator(source, plan, seed=config.seed, steps=total_steps, threads=config.data.threads)
    if saved["iterator"] is not None:
        iterator.set_state(saved["iterator"])
        log.info("resuming at step %d of %d", step, total_steps)

    append_run(workdir, run_record() | {"from_step": step, "origin": saved["origin"]})
    if jax.process_index() == 0:
        print_table(
            "parameter groups",
            ("group", "tensors", "parameters", "peak learning rate", "state"),
            parameter_groups.table(
                recipe.groups,
                recipe.labels,
                {path: p.shape for path, p in state.params.items()},
                config.optimizer.learning_rate,
            ),
        )
    if step >= total_steps or best.exhausted:
        log.info("the run is complete at step %d; best step: %s", step, best.best_step)
        checkpoints.close()
        return

    writer = MetricsWriter(workdir, resume_step=step)
    evaluate_step = jax.jit(make_eval_step(recipe.network), out_shardings=replicated(mesh))

    def save(metrics: dict[str, float] | None) -> None:
        writer.flush()
        record = {
            "config": configs.to_json(config),
            "config_hash": configs.digest(config),
            "class_names": list(dataset.class_names),
            "image_shape": list(dataset.image_shape),
            "preprocessing": dataset.preprocessing,
            "dataset_fingerprint": dataset.fingerprint,
            "origin": saved["origin"],
            "iterator": iterator.get_state(),
            "best": best.as_record(),
            "pending": list(pending),  # a copy: the record is written while training goes on
        }
        checkpoints.save(state, record, metrics)

    def validate() -> dict[str, float]:
        logits = split_logits(
            lambda image: evaluate_step(state.inference_params(), state.batch_stats, image),
            validation,
            by_row,
            config.eval.batch_size,
        )
        return scores.validation_metrics(logits, val_labels)

    boundaries = parameter_groups.phases(recipe.groups)
    train_step: Callable | None = None
    clock = Clock()
    stop_requested = listen_for_sigterm()
    first_step = step
    with (
        contextlib.closing(writer),
        contextlib.closing(checkpoints),
        TrainingProgress("training", total_steps, step, active=jax.process_index() == 0) as progress,
    ):
        while step < total_steps and not best.exhausted:
            if step in boundaries and step > 0:
                before = max(boundary for boundary in boundaries if boundary < step)
                enter = functools.partial(recipe.enter_phase, before=before, now=step)
                layout = state_sharding(mesh, jax.eval_shape(enter, state))
                state = jax.jit(enter, out_shardings=layout)(state)
                train_step = None
            with clock.waiting():
                batch = to_devices(next(iterator), by_row)
            batch.pop("index")
            if train_step is None:
                train_step, facts = compile_step(recipe, step, state, batch, mesh)
                writer.timing(step, facts)
                clock.restart()
            if profile and step == first_step + 10:
                jax.profiler.start_trace(str(workdir / "profile"))
            state, metrics = train_step(state, batch)
            pending.append(metrics)
            step += 1
            if profile and step == first_step + 15:
                jax.block_until_ready(state)
                jax.profiler.stop_trace()

            evaluating = validation is not None and (step % eval_every == 0 or step == total_steps)
            preempted = stop_requested(step)
            saving = evaluating or preempted or step % save_every == 0 or step == total_steps
            if saving or len(pending) >= config.log_every:
                pending = [to_floats(m) for m in pending]
                check_finite(pending, step, workdir)
            if len(pending) >= config.log_every:
                summary = average(pending)
                writer.metrics(
                    step, {"epoch": step / plan.steps} | {f"train/{k}": v for k, v in summary.items()}
                )
                writer.timing(step, clock.lap(len(pending), config.data.batch_size))
                progress.update(step, summary["loss"])
                pending = []

            result = None
            if evaluating:
                with clock.paused():
                    result = validate()
                writer.metrics(step, {f"{config.eval.split}/{k}": v for k, v in result.items()})
                best.update(step, result)
                progress.note(step, result)
            if saving:
                with clock.paused():
                    save(result)
            if preempted:
                raise Preempted(
                    f"stopped by SIGTERM after step {step}, saved; start the same command again to go on"
                )
    log.info("finished at step %d; best step: %s", step, best.best_step)


def claim_workdir(
    workdir: Path, config: ml_collections.ConfigDict, dataset: PreparedDataset, *, force: bool
) -> None:
    """Writes config.json, or checks that the run in the workdir is this one.

    The folder of the data may move between starts; its content, told by the fingerprint, may not change.

    Raises:
        UserError: the run was started with another config or other data, and not forced.
    """
    path = workdir / "config.json"
    stored = path.read_text() if path.exists() else None
    current = ml_collections.ConfigDict(config.to_dict() | {"dataset_fingerprint": dataset.fingerprint})
    if stored is not None and not force:
        changed = [
            f"{key}: {change}"
            for key, change in configs.differences(configs.from_json(stored), current).items()
            if key not in _WITHOUT_EFFECT
        ]
        if changed:
            raise UserError(
                f"{workdir} holds a run started with another config ({'; '.join(changed)}); "
                "use another --workdir, or --force to go on with the new values"
            )
    if jax.process_index() == 0:
        write_atomically(path, configs.to_json(current))


def read_labels(source: Any) -> np.ndarray:
    """Labels (N,) int of a split."""
    return np.asarray([example["label"] for example in source])


def class_weights(
    config: ml_collections.ConfigDict, dataset: PreparedDataset, source: Any
) -> tuple[float, ...]:
    """Weight of each class in the loss: 1, or inversely to its frequency with `loss.class_weights='balanced'`.

    Raises:
        UserError: an unknown choice, or a class without training examples to weigh.
    """
    classes = len(dataset.class_names)
    if config.loss.class_weights == "none":
        return (1.0,) * classes
    if config.loss.class_weights != "balanced":
        raise UserError(f"loss.class_weights={config.loss.class_weights!r} is not one of none, balanced")
    counts = np.bincount(read_labels(source), minlength=classes)
    if not counts.all():
        raise UserError(
            f"loss.class_weights='balanced' needs training examples of every class; counts are {counts.tolist()}"
        )
    return tuple((counts.sum() / (classes * counts)).tolist())


def start(
    config: ml_collections.ConfigDict,
    dataset: PreparedDataset,
    source: Any,
    mesh: jax.sharding.Mesh,
    checkpoints: Checkpoints,
    total_steps: int,
) -> tuple[Recipe, TrainState, dict[str, Any]]:
    """The state to train on from, and the record that belongs to it.

    An order of explicit steps: init, load weights, optimizer init; or restore, which needs none of their values. The
    newest checkpoint that is whole is taken; a damaged one is moved aside with a warning. A run that resumes keeps
    the architecture that its first start settled on.
    """
    classes = len(dataset.class_names)
    weights = class_weights(config, dataset, source)

    def recipe_for(model: nnx.Module) -> Recipe:
        network = Network(model)
        groups = parameter_groups.chosen(config, network.stages)
        labels = parameter_groups.assign(groups, network.init()[0])
        return Recipe(network, groups, labels, make_schedule(config.optimizer, total_steps), config, weights)

    for step in reversed(checkpoints.steps()):
        try:
            record = checkpoints.record(step)
            recipe = recipe_for(build_shapes(config, record["origin"]["architecture"], classes, mesh.size))
            return recipe, restore_state(checkpoints, step, recipe, mesh), record
        except DamagedCheckpoint as error:
            log.warning("%s; going back to the one before", error)
            checkpoints.set_aside(step)

    model, origin = initialise(config, classes, mesh.size)
    recipe = recipe_for(model)
    layout = state_sharding(mesh, jax.eval_shape(recipe.init_state, *recipe.network.init()))
    state = jax.jit(recipe.init_state, out_shardings=layout)(*recipe.network.init())
    best = BestSoFar(config.best.metric, config.best.mode, config.best.patience)
    return (
        recipe,
        state,
        {"step": 0, "pending": [], "best": best.as_record(), "iterator": None, "origin": origin},
    )


def restore_state(checkpoints: Checkpoints, step: int, recipe: Recipe, mesh: jax.sharding.Mesh) -> TrainState:
    """The train state of a checkpoint, laid out on this mesh whatever mesh it was saved from."""
    params, batch_stats = recipe.network.init()
    shapes = jax.eval_shape(recipe.init_state, params, batch_stats)
    # The optimizer state in a checkpoint belongs to the groups that learned in the step before it.
    shapes.opt_state = jax.eval_shape(recipe.optimizer(max(step - 1, 0)).init, params)
    shapes = shapes_on(shapes, state_sharding(mesh, shapes))
    arrays = checkpoints.restore(step, {name: getattr(shapes, name) for name in ARRAYS})
    return TrainState(step=jax.device_put(np.int32(step), replicated(mesh)), **arrays)


def compile_step(
    recipe: Recipe, step: int, state: TrainState, batch: dict[str, jax.Array], mesh: jax.sharding.Mesh
) -> tuple[Callable, dict[str, float]]:
    """The compiled train step in force at `step`, and what its compilation says of it."""
    began = time.perf_counter()
    layout = state_sharding(mesh, state)
    function = jax.jit(
        make_train_step(recipe, step),
        donate_argnums=0,
        in_shardings=(layout, batch_sharding(mesh)),
        out_shardings=(layout, replicated(mesh)),
    )
    compiled = function.lower(state, batch).compile()
    memory = compiled.memory_analysis()
    facts = {
        "compile_seconds": time.perf_counter() - began,
        # As the compiler counts: a loop's body once, and on CPU the strips of a Winograd convolution are a loop.
        "step_flops": compiled.cost_analysis().get("flops", math.nan),
        "step_temporary_bytes": memory.temp_size_in_bytes,
        "step_argument_bytes": memory.argument_size_in_bytes,
    }
    return compiled, facts


def to_floats(metrics: dict[str, Any]) -> dict[str, float]:
    """Scalars on the host; exact, so that a checkpoint can carry them as JSON."""
    return {name: float(value) for name, value in metrics.items()}


def average(window: list[dict[str, float]]) -> dict[str, float]:
    """Mean of each metric over the steps of a window."""
    return {
        name: float(np.mean([metrics[name] for metrics in window if name in metrics])) for name in window[-1]
    }


def check_finite(window: list[dict[str, float]], step: int, workdir: Path) -> None:
    """Stops a run whose loss is not finite any more.

    Raises:
        Diverged: with the range of steps since the loss was last known to be finite.
    """
    bad = [i for i, metrics in enumerate(window) if not math.isfinite(metrics["loss"])]
    if bad:
        first = step - len(window) + 1
        raise Diverged(
            f"loss is {window[bad[0]]['loss']} at step {first + bad[0]} (checked: {first} to {step} of {workdir}); "
            "nothing of these steps was saved; lower optimizer.learning_rate or set optimizer.clip_norm"
        )


def listen_for_sigterm() -> Callable[[int], bool]:
    """`f(step)`: whether to save and stop now, agreed among all processes."""
    if jax.process_count() > 1:
        # jax.distributed listens for SIGTERM itself and agrees on a step that no process has passed.
        return multihost_utils.reached_preemption_sync_point
    received = []
    signal.signal(signal.SIGTERM, lambda *_: received.append(True))
    return lambda step: bool(received)
