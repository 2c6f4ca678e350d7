"""A learning rate that falls along a half cosine."""

import optax

from osteojax.registry import NoSettings
from osteojax.train.schedules.registry import SCHEDULES


@SCHEDULES.function("cosine")
def cosine(peak: float, steps: int, settings: NoSettings) -> optax.Schedule:
    """From the peak to zero (Loshchilov and Hutter 2017, without restarts)."""
    return optax.cosine_decay_schedule(peak, steps)
