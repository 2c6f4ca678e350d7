"""A learning rate that falls along a line."""

import dataclasses
from typing import Annotated

import optax

from osteojax.config import Share
from osteojax.train.schedules.registry import SCHEDULES


@dataclasses.dataclass(frozen=True)
class Linear:
    """The share of the peak that it ends at."""

    end: Annotated[float, Share] = 0.0


@SCHEDULES.function("linear", settings=Linear)
def linear(peak: float, steps: int, settings: Linear) -> optax.Schedule:
    """From the peak to `end` times the peak."""
    return optax.linear_schedule(peak, settings.end * peak, steps)
