"""Adam."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import optax

from osteojax.config import Fraction, Positive
from osteojax.train.optimizers.registry import OPTIMIZERS


@dataclasses.dataclass(frozen=True)
class Adam:
    """Decay of the first and second moment, and what keeps the denominator from zero."""

    b1: Annotated[float, Fraction] = 0.9
    b2: Annotated[float, Fraction] = 0.999
    eps: Annotated[float, Positive] = 1e-8


@OPTIMIZERS.function("adam", settings=Adam)
def adam(
    decay: optax.GradientTransformation, rate: optax.GradientTransformation, settings: Adam
) -> Sequence[optax.GradientTransformation]:
    """Kingma and Ba 2015; weight decay is an L2 penalty, part of the gradient, as in `torch.optim.Adam`."""
    return decay, optax.scale_by_adam(b1=settings.b1, b2=settings.b2, eps=settings.eps), rate
