"""The optimizer: one optax transformation, partitioned by parameter group."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

import osteojax.train.optimizers
import osteojax.train.schedules  # noqa: F401
from osteojax.config import read
from osteojax.errors import UserError
from osteojax.models.network import Flat
from osteojax.train.experiment import OptimizerSection
from osteojax.train.kernels import kernels
from osteojax.train.optimizers.registry import OPTIMIZERS
from osteojax.train.parameter_groups import ParameterGroup
from osteojax.train.schedules import plateau
from osteojax.train.schedules.plateau import Plateau
from osteojax.train.schedules.registry import SCHEDULES


def make_schedule(section: OptimizerSection, total_steps: int) -> optax.Schedule:
    """Learning rate by global step: a line over `warmup_steps` to where the named schedule begins, then that one.

    Raises:
        UserError: an unknown schedule, or a warm-up that leaves no step to train.
    """
    if section.warmup_steps >= total_steps:
        raise UserError(
            f"optimizer.warmup_steps={section.warmup_steps} leaves nothing of the {total_steps} steps of this run"
        )
    make = SCHEDULES.bind(section.schedule, {}, section.schedule_settings, "optimizer.schedule_settings")
    after = make(section.learning_rate, total_steps - section.warmup_steps)
    warmup = optax.linear_schedule(0.0, float(after(0)), section.warmup_steps)
    return optax.join_schedules([warmup, after], [section.warmup_steps])


def _scale_by_global_schedule(
    schedule: optax.Schedule, factor: float
) -> optax.GradientTransformationExtraArgs:
    # By the step of the run, not by a count of its own: a group that is unfrozen late joins the schedule where it is.
    def update(updates: Any, state: Any, params: Any = None, *, step: jax.Array, **_: Any) -> tuple[Any, Any]:
        rate = -schedule(step) * factor
        return jax.tree.map(lambda u: (rate * u).astype(u.dtype), updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def make_optimizer(
    section: OptimizerSection,
    groups: Sequence[ParameterGroup],
    labels: Mapping[str, str],
    schedule: optax.Schedule,
    step: int,
) -> optax.GradientTransformationExtraArgs:
    """The transformation in force at `step`, over flat trees; its `update` takes the extra argument `step`.

    Frozen groups pass through `optax.set_to_zero`, which holds no state. Weight decay is for kernels alone, as usual:
    biases, norms, and what transformers know of places are spared; where it stands is the optimizer's affair. The clip
    is by the norm over all groups that learn.

    Raises:
        UserError: an unknown optimizer, or a setting that it does not have.
    """
    parts = OPTIMIZERS.bind(section.name, vars(section), section.settings, "optimizer.settings")

    def of_group(group: ParameterGroup) -> optax.GradientTransformation:
        if group.frozen_at(step):
            return optax.set_to_zero()
        decay = section.weight_decay if group.weight_decay is None else group.weight_decay
        decayed = optax.add_decayed_weights(decay, mask=kernels)
        return optax.chain(*parts(decayed, _scale_by_global_schedule(schedule, group.lr_factor)))

    clip = optax.clip_by_global_norm(section.clip_norm if section.clip_norm > 0 else math.inf)
    by_group = optax.partition({group.name: of_group(group) for group in groups}, dict(labels))
    settings = plateau_settings(section)
    return optax.chain(clip, by_group, *([plateau.falls(settings)] if settings else []))


def plateau_settings(section: OptimizerSection) -> Plateau | None:
    """Of the schedule "plateau"; None with another one.

    Raises:
        UserError: a setting that it does not have.
    """
    if section.schedule != "plateau":
        return None
    return read(Plateau, section.schedule_settings, "optimizer.schedule_settings")


def scale_of(opt_state: Any) -> Any:
    """What the schedule is multiplied by: below 1 after falls of the schedule "plateau"."""
    return opt_state[2].scale if len(opt_state) > 2 else 1.0


def note_validation(settings: Plateau, opt_state: Any, value: jax.Array) -> Any:
    """The optimizer's state behind a validation whose metric, smaller is better, is `value`. Run it under `jax.jit`."""
    clip, by_group, noted = opt_state
    return clip, by_group, plateau.note(settings, noted, value)


def carry_over(old: Any, new: Any) -> tuple[Any, frozenset[str]]:
    """The optimizer state `new` with what `old` knew, group by group, and the groups that start afresh.

    A group keeps its moments where all of its state has the structure, shapes and dtypes that it had; half of a
    group's moments would be wrong with the other half's count.

    Args:
        old: state of a transformation of `make_optimizer`.
        new: fresh state of another.
    """
    clip, partition, *falls = new
    before = old[1].inner_states
    kept = {name for name, state in partition.inner_states.items() if _fits(before.get(name), state)}
    inner = {name: before[name] if name in kept else state for name, state in partition.inner_states.items()}
    fresh = frozenset(name for name in inner if name not in kept and jax.tree.leaves(inner[name]))
    kept_falls = old[2:] if same_structure(old[2:], tuple(falls)) else falls
    return (clip, partition._replace(inner_states=inner), *kept_falls), fresh


def _fits(old: Any, new: Any) -> bool:
    if old is None or not same_structure(old, new):
        return False
    leaves = zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True)
    return all(a.shape == b.shape and a.dtype == b.dtype for a, b in leaves)


def same_structure(a: Any, b: Any) -> bool:
    """Whether two trees differ in their leaves alone."""
    one: Any = jax.tree.structure(a)
    return bool(one == jax.tree.structure(b))


def norms_by_group(tree: Flat, labels: Mapping[str, str], names: Sequence[str]) -> dict[str, jax.Array]:
    """Euclidean norm, float32, of each named group's part of a flat tree."""
    return {
        name: jnp.sqrt(sum(jnp.sum(jnp.square(tree[path])) for path in tree if labels[path] == name))
        for name in names
    }
