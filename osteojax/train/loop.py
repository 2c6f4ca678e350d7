"""One training run, from a config to checkpoints; started again on the same workdir, it goes on where it was."""

import contextlib
import logging
import math
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grain
import jax
import ml_collections
import numpy as np
from jax.experimental import multihost_utils

from osteojax import config as configs
from osteojax import leaky
from osteojax.data.balanced import Balanced
from osteojax.data.batches import Batch, BatchPlan, plan_for, to_devices, train_iterator
from osteojax.data.columns import T_SCORE, beside
from osteojax.data.dataset import NO_SPLIT, Examples
from osteojax.data.order import Order
from osteojax.data.pixels import unpack
from osteojax.devices.agreement import check_even_devices, shared_errors
from osteojax.devices.mesh import batch_sharding, make_mesh, replicated, state_sharding
from osteojax.metrics import score as scores
from osteojax.progress import TrainingProgress, print_table
from osteojax.run.checkpoint import Checkpoints
from osteojax.run.inference import split_logits
from osteojax.run.learned import write_learned
from osteojax.run.record import MetricsWriter, append_run, run_record
from osteojax.run.state import TrainState
from osteojax.run.workdir import hold, write_config
from osteojax.train import feed as feeds
from osteojax.train import parameter_groups, siamese
from osteojax.train.clock import Clock
from osteojax.train.experiment import Experiment, opened, with_fingerprint
from osteojax.train.feed import Feed
from osteojax.train.recalibrate import recalibrated
from osteojax.train.start import agree_on_start, check_continues, checkpoint_record, mark_of, start
from osteojax.train.step import Recipe, all_finite, compile_step
from osteojax.train.window import Diverged, Window

log = logging.getLogger(__name__)


class Preempted(Exception):
    """The run was asked to stop (SIGTERM), has saved, and can be started again."""


def train(
    config: ml_collections.ConfigDict,
    workdir: Path,
    *,
    shared: bool = True,
    force: bool = False,
    profile: bool = False,
) -> int:
    """Trains, validates and saves.

    Args:
        config: as in configs/.
        workdir: where everything is written; may hold an earlier part of the same run.
        shared: whether that is one folder for all processes; else the first one's counts, and the others have copies.
        force: go on although the config is not the one that the run was started with.
        profile: write an XProf trace of steps 10 to 14 of this start to `workdir/profile`.

    Returns:
        Steps done in this start; 0 where the run was complete.

    Raises:
        UserError: the config, the dataset or the workdir does not fit.
        Diverged: the loss or the state became NaN or infinite.
        Preempted: after SIGTERM, once the state is saved.
    """
    check_even_devices()
    with shared_errors():
        experiment, dataset = opened(config)
    agree_on_start(config, dataset)
    mesh = make_mesh(experiment.mesh.data, experiment.mesh.fsdp)
    by_row = batch_sharding(mesh)
    source = dataset.source("train")
    order = None
    if experiment.data.sampling == "balanced":
        order = Balanced(source.labels(), experiment.seed)
    plan = plan_for(by_row, len(order if order is not None else source), experiment.data.batch_size)
    total_steps = math.ceil(experiment.epochs * plan.steps)
    eval_every = experiment.eval.every_steps or plan.steps
    save_every = experiment.checkpoint.every_steps or eval_every
    # The paper's 80:20 split has no validation set: then nothing is validated and the last step counts as best.
    validates = experiment.eval.split != NO_SPLIT
    val_labels = dataset.source(experiment.eval.split).labels() if validates else np.zeros(0, np.int32)

    with contextlib.ExitStack() as stack:
        stack.enter_context(hold(workdir, shared=shared))
        checkpoints = stack.enter_context(
            contextlib.closing(
                Checkpoints(
                    workdir / "checkpoints",
                    writes=True,
                    metric=experiment.best.metric if validates else None,
                    mode=experiment.best.direction,
                    keep=experiment.checkpoint.keep,
                    shared=shared,
                )
            )
        )
        check_continues(workdir, checkpoints, experiment, dataset, force=force)
        begun = start(experiment, dataset, source, mesh, workdir, checkpoints, total_steps)
        # Only now: what cannot start must not claim the folder.
        write_config(workdir, configs.to_json(with_fingerprint(config, dataset)))
        if begun.learned is not None and jax.process_index() == 0:
            write_learned(workdir, begun.learned)

        recipe, state, step, best = begun.recipe, begun.state, begun.step, begun.best
        if step:
            log.info("resuming at step %d of %d", step, total_steps)
        mark = mark_of(dataset, begun.origin)
        append_run(workdir, run_record() | {"from_step": step, "origin": begun.origin, leaky.KEY: mark})
        if mark is not None:
            log.warning("%s", leaky.told(mark))
        print_groups(recipe, state.params)
        if step >= total_steps or best.exhausted:
            log.info("the run is complete at step %d; best step: %s", step, best.best_step)
            return 0

        architecture = begun.origin["architecture"]

        def feed_at(state: TrainState, step: int) -> Feed:
            found = feeds.choose(recipe, architecture, dataset, state, step, plan, mesh)
            return feeds.with_columns(found, experiment, dataset, begun.columns)

        feed = feed_at(state, step)
        iterator = batches_of(feed, plan, experiment, total_steps, order, begun.iterator)
        writer = stack.enter_context(contextlib.closing(MetricsWriter(workdir, resume_step=step, mark=mark)))
        progress = stack.enter_context(
            TrainingProgress("training", total_steps, step, active=jax.process_index() == 0)
        )
        forward = forward_of(recipe, feed, mesh)
        finite = jax.jit(all_finite, out_shardings=replicated(mesh))

        def save(metrics: dict[str, float] | None) -> None:
            if not finite(state):
                raise Diverged(
                    f"a parameter, moment or statistic is not finite any more after step {step} of {workdir}; it was "
                    "not saved; lower optimizer.learning_rate or set optimizer.clip_norm"
                )
            writer.flush()
            position, pending = iterator.get_state(), window.as_record()
            record = checkpoint_record(
                config,
                dataset,
                begun.origin,
                iterator=position,
                best=best,
                pending=pending,
                columns=begun.columns,
            )
            checkpoints.save(state, record, metrics)

        def validate(split: Examples) -> dict[str, float]:
            output = split_logits(
                lambda *inputs: forward(*state.for_inference(), *inputs),
                split,
                mesh,
                experiment.eval.batch_size,
            )
            result = scores.validation_metrics(recipe.network.class_logits(output), val_labels)
            if T_SCORE in split.beside:
                error = np.abs(recipe.network.t_scores(output) - split.beside[T_SCORE])
                known = np.isfinite(error)
                result["t_score_mae"] = float(error[known].mean()) if known.any() else math.nan
            return result

        def recalibrate(step: int) -> TrainState:
            count = experiment.optimizer.recalibrate
            with_columns = beside(source, begun.columns, "")
            some = batches_of(Feed(with_columns, None), plan, experiment, count, order)
            return recalibrated(recipe, state, step, (to_devices(batch, by_row) for batch in some), mesh)

        boundaries = parameter_groups.phases(recipe.groups)
        compiled: dict[int, Callable] = {}
        window = Window(begun.pending)
        clock = Clock()
        # What listened before listens again afterwards: another stage may follow.
        stack.callback(signal.signal, signal.SIGTERM, signal.getsignal(signal.SIGTERM))
        stop_requested = listen_for_sigterm()
        first_step, tracing = step, False
        while step < total_steps and not best.exhausted:
            if step in boundaries and step > 0:
                layout = state_sharding(
                    mesh, jax.eval_shape(lambda s, now=step: recipe.enter_phase(s, now), state)
                )
                state = jax.jit(recipe.enter_phase, static_argnums=1, out_shardings=layout)(state, step)
                compiled = {}
            if step >= feed.until:
                log.info(
                    "step %d: a part of the frozen prefix learns from now on; from here on images are read",
                    step,
                )
                feed = feed_at(state, step)
                iterator = batches_of(feed, plan, experiment, total_steps, order, iterator.get_state())
                forward = forward_of(recipe, feed, mesh)
            ahead = [save_every - step % save_every, total_steps - step, experiment.log_every - len(window)]
            ahead += [boundary - step for boundary in boundaries if boundary > step]
            if validates:
                ahead.append(eval_every - step % eval_every)
            # Powers of two: each other count is another program to compile.
            count = 1 << (min(experiment.train.steps_per_call, *ahead).bit_length() - 1)
            with clock.waiting():
                batch = to_devices(
                    together([next(iterator) for _ in range(count)]), batch_sharding(mesh, steps=count > 1)
                )
            if count not in compiled:
                compiled[count], facts = compile_step(
                    recipe, step, state, batch, mesh, feed.start, *feed.held
                )
                writer.timing(step, facts)
                clock.restart()
            if profile and not tracing and first_step + 10 <= step < first_step + 15:
                tracing = True
                with clock.paused():
                    jax.profiler.start_trace(str(profile_folder(workdir)))
            with clock.synchronising():  # where the queue of the device is full, the call waits for it
                state, metrics = compiled[count](state, batch, *feed.held)
            window.add(metrics, count)
            before, step = step, step + count
            if tracing and step >= first_step + 15:
                tracing = profile = False
                with clock.synchronising():
                    jax.block_until_ready(state)
                with clock.paused():
                    jax.profiler.stop_trace()

            evaluating = feed.validation if step % eval_every == 0 or step == total_steps else None
            preempted = any(stop_requested(passed) for passed in range(before + 1, step + 1))
            saving = evaluating is not None or preempted or step % save_every == 0 or step == total_steps
            if saving or len(window) >= experiment.log_every:
                with clock.synchronising():
                    window.fetch()
                window.check_finite(step, workdir)

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
            if len(window) >= experiment.log_every or ending:
                summary = window.average()
                writer.metrics(
                    step, {"epoch": step / plan.steps} | {f"train/{k}": v for k, v in summary.items()}
                )
                writer.timing(step, clock.lap(len(window), experiment.data.batch_size))
                progress.update(step, summary["loss"])
                siamese.tell_collapse(summary, step)
                window.clear()
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
        return step - first_step


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


def batches_of(
    feed: Feed,
    plan: BatchPlan,
    experiment: Experiment,
    steps: int,
    order: Order | None,
    position: Any = None,
) -> grain.DatasetIterator:
    """The batches of a feed, shuffled or in another order, from a position on; None for the beginning."""
    iterator = train_iterator(
        feed.train, plan, seed=experiment.seed, steps=steps, threads=experiment.data.threads, order=order
    )
    if position is not None:
        iterator.set_state(position)
    return iterator


def together(batches: Sequence[Batch]) -> Batch:
    """What one call of the step takes: a batch, or several, (steps, rows, ...)."""
    if len(batches) == 1:
        return {key: value for key, value in batches[0].items() if key != "index"}
    return {key: np.stack([batch[key] for batch in batches]) for key in batches[0] if key != "index"}


def forward_of(recipe: Recipe, feed: Feed, mesh: jax.sharding.Mesh) -> Callable[..., jax.Array]:
    """`f(params, stats, input, clinical) -> output` of what the feed validates on, in inference mode."""
    apply = recipe.network.output_function(feed.start)
    return jax.jit(
        lambda params, stats, image, *clinical: apply(params, stats, unpack(image), *clinical),
        out_shardings=replicated(mesh),
    )


def listen_for_sigterm() -> Callable[[int], bool]:
    """`f(step)`: whether to save and stop now, agreed among all processes."""
    if jax.process_count() > 1:
        # jax.distributed listens for SIGTERM itself and agrees on a step that no process has passed.
        return multihost_utils.reached_preemption_sync_point
    received = []
    signal.signal(signal.SIGTERM, lambda *_: received.append(True))
    return lambda step: bool(received)
