"""The registry that `loss.name` chooses from."""

from collections.abc import Callable

import jax

from osteojax.registry import Functions

# `f(logits, label, settings) -> losses`: logits (B, classes) float32 and labels (B,) int32 to one loss each, (B,)
# float32. Class weights, padding and the mean are the train step's.
LOSSES: Functions[Callable[..., jax.Array]] = Functions("loss")
