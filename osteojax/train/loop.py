"""One training run, from a config to checkpoints; started again on the same workdir, it goes on where it was."""

import contextlib
import logging
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.experimental import multihost_utils

from osteojax import config as configs
from osteojax.data.balanced import Balanced
from osteojax.data.batches import plan_for, to_devices, train_iterator
from osteojax.data.dataset import NO_SPLIT, PreparedDataset, Split, read_labels
from osteojax.devices.agreement import check_even_devices, shared_errors
from osteojax.devices.mesh import batch_sharding, make_mesh, replicated, state_sharding
from osteojax.errors import UserError
from osteojax.metrics import score as scores
from osteojax.progress import TrainingProgress, print_table
from osteojax.run.checkpoint import Checkpoints
from osteojax.run.inference import split_logits
from osteojax.run.record import MetricsWriter, append_run, run_record
from osteojax.run.state import TrainState
from osteojax.run.workdir import hold, write_config
from osteojax.train import parameter_groups
from osteojax.train.clock import Clock
from osteojax.train.experiment import check, read_experiment
from osteojax.train.recalibrate import recalibrated
from osteojax.train.start import agree_on_start, check_continues, start
from osteojax.train.step import Recipe, all_finite, compile_step

log = logging.getLogger(__name__)


class Diverged(UserError):
    """The loss, or a number of the state, is not finite any more."""


class Preempted(Exception):
    """The run was asked to stop (SIGTERM), has saved, and can be started again."""


def train(
    config: ml_collections.ConfigDict,
    workdir: Path,
    *,
    shared: bool = True,
    force: bool = False,
    profile: bool = False,
) -> None:
    """Trains, validates and saves.

    Args:
        config: as in configs/.
        workdir: where everything is written; may hold an earlier part of the same run.
        shared: whether that is one folder for all processes; else the first one's counts, and the others have copies.
        force: go on although the config is not the one that the run was started with.
        profile: write an XProf trace of steps 10 to 14 of this start to `workdir/profile`.

    Raises:
        UserError: the config, the dataset or the workdir does not fit.
        Diverged: the loss or the state became NaN or infinite.
        Preempted: after SIGTERM, once the state is saved.
    """
    check_even_devices()
    with shared_errors():
        experiment = read_experiment(config)
        dataset = PreparedDataset.open(experiment.data.dir).for_fold(experiment.fold)
        check(experiment, dataset)
    agree_on_start(config, dataset)
    mesh = make_mesh(experiment.mesh.data, experiment.mesh.fsdp)
    by_row = batch_sharding(mesh)
    source = dataset.source("train")
    order = None
    if experiment.data.sampling == "balanced":
        order = Balanced(read_labels(source), experiment.seed)
    plan = plan_for(by_row, len(order if order is not None else source), experiment.data.batch_size)
    total_steps = math.ceil(experiment.epochs * plan.steps)
    eval_every = experiment.eval.every_steps or plan.steps
    save_every = experiment.checkpoint.every_steps or eval_every
    # The paper's 80:20 split has no validation set: then nothing is validated and the last step counts as best.
    validation = None if experiment.eval.split == NO_SPLIT else dataset.source(experiment.eval.split)
    val_labels = read_labels(validation or ())

    with contextlib.ExitStack() as stack:
        stack.enter_context(hold(workdir, shared=shared))
        checkpoints = stack.enter_context(
            contextlib.closing(
                Checkpoints(
                    workdir / "checkpoints",
                    metric=experiment.best.metric,
                    mode=experiment.best.direction,
                    keep=experiment.checkpoint.keep,
                    shared=shared,
                )
            )
        )
        check_continues(workdir, checkpoints, experiment, dataset, force=force)
        begun = start(experiment, dataset.class_names, source, mesh, checkpoints, total_steps)
        # Only now: what cannot start must not claim the folder.
        write_config(workdir, configs.to_json(_with_fingerprint(config, dataset)))

        recipe, state, step, pending, best = begun.recipe, begun.state, begun.step, begun.pending, begun.best
        iterator = train_iterator(
            source,
            plan,
            seed=experiment.seed,
            steps=total_steps,
            threads=experiment.data.threads,
            order=order,
        )
        if begun.iterator is not None:
            iterator.set_state(begun.iterator)
            log.info("resuming at step %d of %d", step, total_steps)
        append_run(workdir, run_record() | {"from_step": step, "origin": begun.origin})
        print_groups(recipe, state.params)
        if step >= total_steps or best.exhausted:
            log.info("the run is complete at step %d; best step: %s", step, best.best_step)
            return

        writer = stack.enter_context(contextlib.closing(MetricsWriter(workdir, resume_step=step)))
        progress = stack.enter_context(
            TrainingProgress("training", total_steps, step, active=jax.process_index() == 0)
        )
        forward = jax.jit(recipe.network.eval_function(), out_shardings=replicated(mesh))
        finite = jax.jit(all_finite, out_shardings=replicated(mesh))

        def save(metrics: dict[str, float] | None) -> None:
            if not finite(state):
                raise Diverged(
                    f"a parameter, moment or statistic is not finite any more after step {step} of {workdir}; it was "
                    "not saved; lower optimizer.learning_rate or set optimizer.clip_norm"
                )
            writer.flush()
            record = {
                "config": configs.to_json(config),
                "config_hash": configs.digest(config),
                "class_names": list(dataset.class_names),
                "image_shape": list(dataset.image_shape),
                "preprocessing": dataset.preprocessing,
                "dataset_fingerprint": dataset.fingerprint,
                "origin": begun.origin,
                "iterator": iterator.get_state(),
                "best": best.as_record(),
                "pending": list(pending),  # a copy: the record is written while training goes on
            }
            checkpoints.save(state, record, metrics)

        def validate(split: Split) -> dict[str, float]:
            logits = split_logits(
                lambda image: forward(*state.for_inference(), image), split, mesh, experiment.eval.batch_size
            )
            return scores.validation_metrics(logits, val_labels)

        def recalibrate(step: int) -> TrainState:
            count = experiment.optimizer.recalibrate
            some = train_iterator(source, plan, seed=experiment.seed, steps=count, order=order)
            return recalibrated(recipe, state, step, (to_devices(batch, by_row) for batch in some), mesh)

        boundaries = parameter_groups.phases(recipe.groups)
        train_step: Callable | None = None
        clock = Clock()
        stop_requested = listen_for_sigterm()
        first_step = step
        while step < total_steps and not best.exhausted:
            if step in boundaries and step > 0:
                layout = state_sharding(
                    mesh, jax.eval_shape(lambda s, now=step: recipe.enter_phase(s, now), state)
                )
                state = jax.jit(recipe.enter_phase, static_argnums=1, out_shardings=layout)(state, step)
                train_step = None
            with clock.waiting():
                batch = to_devices(next(iterator), by_row)
            batch.pop("index")
            if train_step is None:
                train_step, facts = compile_step(recipe, step, state, batch, mesh)
                writer.timing(step, facts)
                clock.restart()
            if profile and step == first_step + 10:
                with clock.paused():
                    jax.profiler.start_trace(str(profile_folder(workdir)))
            with clock.synchronising():  # where the queue of the device is full, the call waits for it
                state, metrics = train_step(state, batch)
            pending.append(metrics)
            step += 1
            if profile and step == first_step + 15:
                with clock.synchronising():
                    jax.block_until_ready(state)
                with clock.paused():
                    jax.profiler.stop_trace()

            evaluating = validation if step % eval_every == 0 or step == total_steps else None
            preempted = stop_requested(step)
            saving = evaluating is not None or preempted or step % save_every == 0 or step == total_steps
            if saving or len(pending) >= experiment.log_every:
                with clock.synchronising():
                    pending = [to_floats(m) for m in pending]
                check_finite(pending, step, workdir)

            result = None
            if evaluating is not None:
                with clock.paused():
                    if experiment.optimizer.recalibrate:
                        state = recalibrate(step)
                    result = validate(evaluating)
                best.update(step, result)
                state = recipe.note_validation(state, result, mesh)
                progress.note(step, result)
            ending = step == total_steps or best.exhausted
            if len(pending) >= experiment.log_every or ending:
                summary = average(pending)
                writer.metrics(
                    step, {"epoch": step / plan.steps} | {f"train/{k}": v for k, v in summary.items()}
                )
                writer.timing(step, clock.lap(len(pending), experiment.data.batch_size))
                progress.update(step, summary["loss"])
                pending = []
            if result is not None:
                writer.metrics(step, {f"{experiment.eval.split}/{k}": v for k, v in result.items()})
            if saving:
                with clock.paused():
                    save(result)
            if preempted and not ending:
                raise Preempted(
                    f"stopped by SIGTERM after step {step}, saved; start the same command again to go on"
                )
        log.info("finished at step %d; best step: %s", step, best.best_step)


def _with_fingerprint(
    config: ml_collections.ConfigDict, dataset: PreparedDataset
) -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(config.to_dict() | {"dataset_fingerprint": dataset.fingerprint})


def profile_folder(workdir: Path) -> Path:
    """Where this process writes its trace: hosts of one name would overwrite each other's."""
    folder = workdir / "profile"
    return folder if jax.process_count() == 1 else folder / f"process{jax.process_index()}"


def print_groups(recipe: Recipe, params: dict[str, Any]) -> None:
    """What learns and what does not, as a table of the first process."""
    if jax.process_index() == 0:
        print_table(
            "parameter groups",
            ("group", "tensors", "parameters", "peak learning rate", "state"),
            parameter_groups.table(
                recipe.groups,
                recipe.labels,
                {path: p.shape for path, p in params.items()},
                recipe.experiment.optimizer.learning_rate,
            ),
        )


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
