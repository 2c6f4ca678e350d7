"""A learning rate that rises once and falls once."""

import dataclasses
from typing import Annotated

import optax

from osteojax.config import Bound
from osteojax.errors import UserError
from osteojax.train.schedules.registry import SCHEDULES


@dataclasses.dataclass(frozen=True)
class OneCycle:
    """Where it is highest, and how low it begins and ends.

    Attributes:
        rise: share of the steps until the peak.
        start: what the peak is divided by at the beginning.
        end: what that beginning is divided by at the end.
    """

    rise: Annotated[float, Bound(low=0, high=1, open_low=True, open_high=True)] = 0.3
    start: Annotated[float, Bound(low=1)] = 25.0
    end: Annotated[float, Bound(low=1)] = 1e4


@SCHEDULES.function("one_cycle", settings=OneCycle)
def one_cycle(peak: float, steps: int, settings: OneCycle) -> optax.Schedule:
    """Smith and Topin 2018, along half cosines as in `torch.optim.lr_scheduler.OneCycleLR`."""
    if int(settings.rise * steps) < 1:
        raise UserError(
            f"optimizer.schedule='one_cycle' cannot rise in {settings.rise:g} of {steps} steps; train longer, or raise "
            "optimizer.schedule_settings.rise"
        )
    return optax.cosine_onecycle_schedule(steps, peak, settings.rise, settings.start, settings.end)
