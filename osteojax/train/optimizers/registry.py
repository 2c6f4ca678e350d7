"""The registry that `optimizer.name` chooses from."""

from collections.abc import Callable

import optax

from osteojax.registry import Functions

# `f(settings) -> transformation`: gradients in, directions out, of the gradient's sign. The learning rate, decoupled
# weight decay and clipping come from `osteojax.train.optimizer` and are the same for all.
OPTIMIZERS: Functions[Callable[..., optax.GradientTransformation]] = Functions("optimizer")
