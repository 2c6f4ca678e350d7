"""The registry that `optimizer.schedule` chooses from."""

from collections.abc import Callable

import optax

from osteojax.registry import Functions

# `f(peak, steps, settings) -> schedule`: up to `peak`, over `steps` steps from its step 0, which follows the warm-up.
SCHEDULES: Functions[Callable[..., optax.Schedule]] = Functions("schedule")
