"""The optimizer: one optax transformation, partitioned by parameter group."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

from osteojax.errors import UserError
from osteojax.models.network import Flat
from osteojax.train.parameter_groups import Group


def make_schedule(config: ml_collections.ConfigDict, total_steps: int) -> optax.Schedule:
    """Learning rate by global step: linear warm-up over `warmup_steps`, then `constant` or `cosine` to zero.

    Raises:
        UserError: an unknown schedule, or a warm-up that leaves no step to train.
    """
    if config.warmup_steps >= total_steps:
        raise UserError(
            f"optimizer.warmup_steps={config.warmup_steps} leaves nothing of the {total_steps} steps of this run"
        )
    after = {
        "constant": optax.constant_schedule(config.learning_rate),
        "cosine": optax.cosine_decay_schedule(config.learning_rate, total_steps - config.warmup_steps),
    }
    if config.schedule not in after:
        raise UserError(f"optimizer.schedule={config.schedule!r} is not one of {', '.join(after)}")
    warmup = optax.linear_schedule(0.0, config.learning_rate, config.warmup_steps)
    return optax.join_schedules([warmup, after[config.schedule]], [config.warmup_steps])


def _scale_by_global_schedule(
    schedule: optax.Schedule, factor: float
) -> optax.GradientTransformationExtraArgs:
    # By the step of the run, not by a count of its own: a group that is unfrozen late joins the schedule where it is.
    def update(updates: Any, state: Any, params: Any = None, *, step: jax.Array, **_: Any) -> tuple[Any, Any]:
        rate = -schedule(step) * factor
        return jax.tree.map(lambda u: (rate * u).astype(u.dtype), updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def _direction(config: ml_collections.ConfigDict) -> optax.GradientTransformation:
    if config.name == "adamw":
        return optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps)
    if config.name == "sgd":
        return optax.trace(decay=config.momentum, nesterov=config.nesterov)
    raise UserError(f"optimizer.name={config.name!r} is not one of adamw, sgd")


def make_optimizer(
    config: ml_collections.ConfigDict,
    groups: Sequence[Group],
    labels: Mapping[str, str],
    schedule: optax.Schedule,
    step: int,
) -> optax.GradientTransformationExtraArgs:
    """The transformation in force at `step`, over flat trees; its `update` takes the extra argument `step`.

    Frozen groups pass through `optax.set_to_zero`, which holds no state. Weight decay is decoupled (Loshchilov and
    Hutter 2019) and spares vectors (biases and batch norm), as usual. The clip is by the norm over all groups that
    learn.
    """

    def of_group(group: Group) -> optax.GradientTransformation:
        if group.frozen_at(step):
            return optax.set_to_zero()
        decay = config.weight_decay if group.weight_decay is None else group.weight_decay
        return optax.chain(
            _direction(config),
            optax.add_decayed_weights(decay, mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params)),
            _scale_by_global_schedule(schedule, group.lr_factor),
        )

    clip = optax.clip_by_global_norm(config.clip_norm if config.clip_norm > 0 else math.inf)
    return optax.chain(clip, optax.partition({group.name: of_group(group) for group in groups}, dict(labels)))


def carry_over(old: Any, new: Any, groups: Sequence[Group], before: int, now: int) -> Any:
    """The state `new` of the transformation in force at step `now`, with what `old`, in force at `before`, knew.

    Groups that learned before keep their moments; a group unfrozen in between starts with the fresh ones of `new`.
    """
    kept = {group.name for group in groups if not group.frozen_at(before) and not group.frozen_at(now)}
    clip_state, partition = new
    inner = {
        name: old[1].inner_states[name] if name in kept else state
        for name, state in partition.inner_states.items()
    }
    return (clip_state, partition._replace(inner_states=inner))


def norms_by_group(tree: Flat, labels: Mapping[str, str], names: Sequence[str]) -> dict[str, jax.Array]:
    """Euclidean norm, float32, of each named group's part of a flat tree."""
    return {
        name: jnp.sqrt(sum(jnp.sum(jnp.square(tree[path])) for path in tree if labels[path] == name))
        for name in names
    }
