"""LARS."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import optax

from osteojax.config import Fraction, Positive
from osteojax.train.optimizers.registry import OPTIMIZERS
from osteojax.train.trust import trust_ratio


@dataclasses.dataclass(frozen=True)
class Lars:
    """Decay of the velocity, Nesterov's look ahead, and eta of the paper."""

    momentum: Annotated[float, Fraction] = 0.9
    nesterov: bool = False
    trust_coefficient: Annotated[float, Positive] = 1e-3


@OPTIMIZERS.function("lars", settings=Lars)
def lars(
    decay: optax.GradientTransformation, rate: optax.GradientTransformation, settings: Lars
) -> Sequence[optax.GradientTransformation]:
    """You, Gitman and Ginsburg 2017, algorithm 1: the step is a share of the norm of each tensor."""
    velocity = optax.trace(decay=settings.momentum, nesterov=settings.nesterov)
    return decay, trust_ratio(settings.trust_coefficient), rate, velocity
