"""LAMB."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import optax

from osteojax.config import Fraction, Positive
from osteojax.train.optimizers.registry import OPTIMIZERS
from osteojax.train.trust import trust_ratio


@dataclasses.dataclass(frozen=True)
class Lamb:
    """Decay of the first and second moment, and what keeps the denominator from zero."""

    b1: Annotated[float, Fraction] = 0.9
    b2: Annotated[float, Fraction] = 0.999
    eps: Annotated[float, Positive] = 1e-8


@OPTIMIZERS.function("lamb", settings=Lamb)
def lamb(
    decay: optax.GradientTransformation, rate: optax.GradientTransformation, settings: Lamb
) -> Sequence[optax.GradientTransformation]:
    """You et al. 2020, algorithm 2: AdamW whose step is a share of the norm of each tensor."""
    adam = optax.scale_by_adam(b1=settings.b1, b2=settings.b2, eps=settings.eps)
    return adam, decay, trust_ratio(1.0), rate
