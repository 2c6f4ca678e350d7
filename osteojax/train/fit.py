"""A network that learns from what is generated step by step, such as a segmenter or a denoiser.

Checkpoints, mesh, log and folder are those of `osteojax.train.loop`; datasets, classes and validation are not known
here. What a step learns from is a function of its number, so that a run that was killed goes on to the same bits.
"""

import contextlib
import logging
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from flax import nnx

from osteojax import config as configs
from osteojax.devices.agreement import shared_errors
from osteojax.devices.mesh import batch_sharding, replicated, state_sharding
from osteojax.errors import UserError
from osteojax.models.network import Flat, flat, unflat
from osteojax.progress import TrainingProgress
from osteojax.run.checkpoint import Checkpoints, shapes_on
from osteojax.run.record import MetricsWriter, append_run, run_record
from osteojax.run.state import TrainState
from osteojax.run.workdir import hold, stored_config, write_config
from osteojax.train.loop import Preempted, listen_for_sigterm
from osteojax.train.step import all_finite
from osteojax.train.window import Diverged, Window

log = logging.getLogger(__name__)

Loss = Callable[[Any, Mapping[str, jax.Array], jax.Array], jax.Array]
"""`loss(model, batch, key)`: () float32, jitted; the key is the step's own, for augmentation and noise."""
Batches = Callable[[int], Mapping[str, np.ndarray]]
"""`batches(step)`: the global batch of the update that leads from `step` to `step` + 1, rows first."""


def fit(
    model: nnx.Module,
    loss: Loss,
    batches: Batches,
    optimizer: optax.GradientTransformation,
    workdir: Path,
    *,
    config: ml_collections.ConfigDict,
    mesh: jax.sharding.Mesh,
    steps: int,
    seed: int,
    checkpoint_every: int,
    log_every: int = 50,
    shared: bool = True,
) -> None:
    """Trains the model in place; started again on the same workdir, it goes on where it was.

    Args:
        model: in the mode that it is to train in; leaves it with the parameters and statistics of the last step.
        loss: see `Loss`; its mean must be over all rows, which lie on all devices.
        batches: see `Batches`; pure, and the same in every process.
        optimizer: over flat trees, path -> array.
        workdir: takes `config.json`, `checkpoints/`, `metrics.jsonl`, `run.json`.
        config: of the run: all that determines it.
        mesh: batches are split over it, and parameters over its axis `fsdp`.
        steps: updates in all.
        seed: of the steps' keys.
        checkpoint_every: so many steps, and at the end.
        log_every: steps of a line in `metrics.jsonl`.
        shared: whether the workdir is one folder for all processes.

    Raises:
        UserError: the workdir cannot be written or holds a run of another config.
        Diverged: the loss or the state became NaN or infinite.
        Preempted: after SIGTERM, once the state is saved.
    """
    parts: Any = nnx.split(model, nnx.Param, nnx.BatchStat, ...)
    graph, params, stats, rest = parts
    by_row = batch_sharding(mesh)

    def init(params: Flat, batch_stats: Flat) -> TrainState:
        return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, optimizer.init(params), None, None)

    def train_step(
        state: TrainState, batch: Mapping[str, jax.Array]
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)

        def loss_of(learned: Flat) -> tuple[jax.Array, Flat]:
            # A copy: what the loss does to the other variables must not reach the model itself.
            others = jax.tree.map(lambda x: x, rest)
            live = nnx.merge(graph, unflat(params, learned), unflat(stats, state.batch_stats), others)
            return loss(live, batch, key), flat(nnx.state(live, nnx.BatchStat))

        (value, batch_stats), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        learned = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, learned, batch_stats, opt_state, None, None), {"loss": value}

    def placed(batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        return {
            name: jax.make_array_from_callback(rows.shape, by_row, rows.__getitem__)
            for name, rows in batch.items()
        }

    with contextlib.ExitStack() as stack:
        stack.enter_context(hold(workdir, shared=shared))
        with shared_errors():
            _check_continues(workdir, config)
        checkpoints = stack.enter_context(
            contextlib.closing(
                Checkpoints(
                    workdir / "checkpoints", writes=True, shared=shared, needed=("config", "pending", "step")
                )
            )
        )
        shapes = jax.eval_shape(init, flat(params), flat(stats))
        layout = state_sharding(mesh, shapes)
        found = checkpoints.newest(lambda step: _restored(checkpoints, step, shapes_on(shapes, layout), mesh))
        if found is None:
            found = jax.jit(init, out_shardings=layout)(flat(params), flat(stats)), []
        state, pending = found
        step = int(state.step)
        write_config(workdir, configs.to_json(config))
        append_run(workdir, run_record() | {"from_step": step})
        compiled = jax.jit(
            train_step,
            donate_argnums=0,
            in_shardings=(layout, by_row),
            out_shardings=(layout, replicated(mesh)),
        )
        finite = jax.jit(all_finite, out_shardings=replicated(mesh))
        writer = stack.enter_context(contextlib.closing(MetricsWriter(workdir, resume_step=step)))
        progress = stack.enter_context(
            TrainingProgress("training", steps, step, active=jax.process_index() == 0)
        )
        window = Window(pending)
        stack.callback(signal.signal, signal.SIGTERM, signal.getsignal(signal.SIGTERM))
        stop_requested = listen_for_sigterm()
        while step < steps:
            state, metrics = compiled(state, placed(batches(step)))
            window.add(metrics, 1)
            step += 1
            preempted = stop_requested(step)
            logging_now = len(window) >= log_every or step == steps
            saving = preempted or step % checkpoint_every == 0 or step == steps
            if saving or logging_now:
                window.fetch()
                window.check_finite(step, workdir)
            if logging_now:
                average = window.average()
                writer.metrics(step, {f"train/{name}": value for name, value in average.items()})
                progress.update(step, average["loss"])
                window.clear()
            if saving:
                if not finite(state):
                    raise Diverged(
                        f"a parameter, moment or statistic is not finite any more after step {step} of {workdir}; "
                        "it was not saved; lower the learning rate"
                    )
                writer.flush()
                record = {"config": configs.to_json(config), "pending": window.as_record()}
                checkpoints.save(state, record, None)
            if preempted and step < steps:
                raise Preempted(
                    f"stopped by SIGTERM after step {step}, saved; start the same command again to go on"
                )
        whole = jax.jit(lambda tree: tree, out_shardings=replicated(mesh))
        nnx.update(model, unflat(params, whole(state.params)), unflat(stats, whole(state.batch_stats)))


def _check_continues(workdir: Path, config: ml_collections.ConfigDict) -> None:
    """Raises UserError where the workdir holds a run of another config."""
    text = stored_config(workdir)
    changed = configs.differences(configs.from_json(text), config) if text is not None else {}
    if changed:
        raise UserError(
            f"{workdir} holds a run started with another config "
            f"({'; '.join(f'{key}: {change}' for key, change in changed.items())}); use another --workdir"
        )


def _restored(
    checkpoints: Checkpoints, step: int, like: TrainState, mesh: jax.sharding.Mesh
) -> tuple[TrainState, list[dict[str, float]]]:
    """The state of a step, and the metrics of the steps since the last line of the log."""
    record = checkpoints.record(step)
    names = ("params", "batch_stats", "opt_state")
    arrays = checkpoints.restore(step, {name: getattr(like, name) for name in names}, record)
    state = TrainState(
        jax.device_put(np.int32(step), replicated(mesh)), **arrays, ema=None, ema_batch_stats=None
    )
    return state, record["pending"]
