"""The batch-norm statistics of averaged parameters, taken anew from training images."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from osteojax.data.columns import CLINICAL
from osteojax.devices.mesh import state_sharding
from osteojax.run.state import TrainState
from osteojax.train.parameter_groups import trainable_at
from osteojax.train.step import Recipe


def recalibrated(
    recipe: Recipe, state: TrainState, step: int, batches: Iterable[Mapping[str, Any]], mesh: Mesh
) -> TrainState:
    """The state whose averaged statistics are those of the averaged parameters (Izmailov et al. 2018, section 3.2).

    Averages of the statistics, which are kept from step to step, are those of other activations. As
    `torch.optim.swa_utils.update_bn` does, mean and variance are averaged over batches, weighed by their examples. The
    images are not augmented, as those of validation are not. Statistics of frozen layers stay as they are.

    Args:
        recipe: with `optimizer.ema_decay` above 0.
        state: behind a step, laid out on the mesh.
        step: number of updates done, at least 1.
        batches: of the training split, on the devices.
        mesh: of the state.
    """
    trainable = trainable_at(recipe.groups, recipe.labels, step - 1)
    moving = recipe.network.moving_statistics(trainable)
    assert state.ema is not None and state.ema_batch_stats is not None
    if not moving:
        return state
    statistics_of = recipe.network.statistics_function(trainable)

    def add(sums: Any, params: Any, stats: Any, batch: Mapping[str, Any]) -> Any:
        inputs = batch["image"], batch["mask"], jax.random.key(0), batch.get(CLINICAL)
        found = statistics_of(params, stats, *inputs)
        count = jnp.sum(batch["mask"])
        total, weight = sums
        return {path: total[path] + count * found[path] for path in total}, weight + count

    stats = {path: x for path, x in state.ema_batch_stats.items() if path in moving}
    sums: Any = ({path: jnp.zeros(x.shape, x.dtype) for path, x in stats.items()}, jnp.zeros(()))
    add_up = jax.jit(add, out_shardings=state_sharding(mesh, sums))
    for batch in batches:
        sums = add_up(sums, state.ema, state.ema_batch_stats, batch)
    mean = jax.jit(
        lambda total, weight: jax.tree.map(lambda x: x / weight, total),
        out_shardings=state_sharding(mesh, stats),
    )
    return dataclasses.replace(state, ema_batch_stats=state.ema_batch_stats | mean(*sums))
