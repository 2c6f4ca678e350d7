"""A learning rate that falls by the same share in each step."""

import dataclasses
from typing import Annotated

import optax

from osteojax.config import Bound
from osteojax.train.schedules.registry import SCHEDULES


@dataclasses.dataclass(frozen=True)
class Exponential:
    """The share of the peak that it ends at."""

    end: Annotated[float, Bound(low=0, high=1, open_low=True)] = 0.01


@SCHEDULES.function("exponential", settings=Exponential)
def exponential(peak: float, steps: int, settings: Exponential) -> optax.Schedule:
    """peak * end^(t / steps)."""
    return optax.exponential_decay(peak, transition_steps=steps, decay_rate=settings.end)
