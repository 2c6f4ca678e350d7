"""AdamW."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import optax

from osteojax.config import Fraction, Positive
from osteojax.train.optimizers.registry import OPTIMIZERS


@dataclasses.dataclass(frozen=True)
class AdamW:
    """Decay of the first and second moment, and what keeps the denominator from zero."""

    b1: Annotated[float, Fraction] = 0.9
    b2: Annotated[float, Fraction] = 0.999
    eps: Annotated[float, Positive] = 1e-8


@OPTIMIZERS.function("adamw", settings=AdamW)
def adamw(
    decay: optax.GradientTransformation, rate: optax.GradientTransformation, settings: AdamW
) -> Sequence[optax.GradientTransformation]:
    """Adam (Kingma and Ba 2015); its weight decay is decoupled (Loshchilov and Hutter 2019)."""
    return optax.scale_by_adam(b1=settings.b1, b2=settings.b2, eps=settings.eps), decay, rate
