"""A learning rate that stays."""

import optax

from osteojax.registry import NoSettings
from osteojax.train.schedules.registry import SCHEDULES


@SCHEDULES.function("constant")
def constant(peak: float, steps: int, settings: NoSettings) -> optax.Schedule:
    """The peak throughout."""
    return optax.constant_schedule(peak)
