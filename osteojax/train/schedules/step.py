"""A learning rate that falls in steps."""

import dataclasses
from typing import Annotated

import optax

from osteojax.config import Bound, Share
from osteojax.train.schedules.registry import SCHEDULES


@dataclasses.dataclass(frozen=True)
class Step:
    """What each fall multiplies by, and where in the run they are, as shares of its steps."""

    factor: Annotated[float, Bound(low=0, high=1, open_low=True)] = 0.1
    at: tuple[Annotated[float, Share], ...] = (0.5, 0.75)


@SCHEDULES.function("step", settings=Step)
def step(peak: float, steps: int, settings: Step) -> optax.Schedule:
    """The peak, times `factor` from each place on; by default as He et al. 2016 trained CIFAR-10."""
    falls = {round(place * steps): settings.factor for place in settings.at}
    return optax.piecewise_constant_schedule(peak, falls)
