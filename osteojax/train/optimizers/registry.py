"""The registry that `optimizer.name` chooses from."""

from collections.abc import Callable, Sequence

import optax

from osteojax.registry import Functions

# `f(decay, rate, settings) -> parts of a chain`: gradients in, updates out. `decay` adds weight decay and `rate`
# multiplies by minus the learning rate; both come from `osteojax.train.optimizer`, are the same for all, and stand
# where the optimizer's paper has them. So does clipping, which comes before.
OPTIMIZERS: Functions[Callable[..., Sequence[optax.GradientTransformation]]] = Functions("optimizer")
