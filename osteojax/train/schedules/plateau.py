"""A learning rate that falls where validation no longer improves."""

import dataclasses
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from osteojax.config import AtLeastOne, Bound, NotNegative, Positive
from osteojax.train.schedules.registry import SCHEDULES


@dataclasses.dataclass(frozen=True)
class Plateau:
    """When the learning rate falls, and by how much.

    Attributes:
        factor: what each fall multiplies by.
        patience: validations without improvement before a fall.
        cooldown: validations after a fall that are not counted.
        threshold: by how much `best.metric` must improve.
        least: share of the peak below which it does not fall.
    """

    factor: Annotated[float, Bound(low=0, high=1, open_low=True, open_high=True)] = 0.1
    patience: Annotated[int, AtLeastOne] = 3
    cooldown: Annotated[int, NotNegative] = 0
    threshold: Annotated[float, Positive] = 1e-4
    least: Annotated[float, NotNegative] = 0.0


@SCHEDULES.function("plateau", settings=Plateau)
def plateau(peak: float, steps: int, settings: Plateau) -> optax.Schedule:
    """The peak; the falls depend on the run, and are a part of the optimizer's state (`falls`)."""
    return optax.constant_schedule(peak)


def _rule(settings: Plateau) -> optax.GradientTransformationExtraArgs:
    return optax.contrib.reduce_on_plateau(
        settings.factor, settings.patience, rtol=0.0, atol=settings.threshold,
        cooldown=settings.cooldown, min_scale=settings.least,
    )  # fmt: skip


def falls(settings: Plateau) -> optax.GradientTransformation:
    """Multiplies updates by the state's `scale`, which only `note` changes."""
    # Its update in each step would count steps; validations are what is counted.
    return optax.GradientTransformation(
        lambda params: _rule(settings).init({"": jnp.zeros(())}),
        lambda updates, state, params=None: (optax.tree.scale(state.scale, updates), state),
    )


def note(settings: Plateau, state: Any, value: jax.Array) -> Any:
    """The state of `falls` behind a validation whose metric, smaller is better, is `value`."""
    return _rule(settings).update({}, state, value=value)[1]
