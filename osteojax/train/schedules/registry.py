"""The registry that `optimizer.schedule` chooses from."""

from collections.abc import Callable

import optax

from osteojax.registry import Functions

# `f(peak, steps, settings) -> schedule`: from `peak` at its step 0, which follows the warm-up, over `steps` steps.
SCHEDULES: Functions[Callable[..., optax.Schedule]] = Functions("schedule")
