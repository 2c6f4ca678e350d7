"""Stochastic gradient descent."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import optax

from osteojax.config import Fraction
from osteojax.train.optimizers.registry import OPTIMIZERS


@dataclasses.dataclass(frozen=True)
class SGD:
    """Decay of the velocity, and whether Nesterov's look ahead is taken."""

    momentum: Annotated[float, Fraction] = 0.9
    nesterov: bool = False


@OPTIMIZERS.function("sgd", settings=SGD)
def sgd(
    decay: optax.GradientTransformation, rate: optax.GradientTransformation, settings: SGD
) -> Sequence[optax.GradientTransformation]:
    """SGD with momentum, Nesterov's (Sutskever et al. 2013) where asked for; its weight decay is decoupled."""
    return optax.trace(decay=settings.momentum, nesterov=settings.nesterov), decay, rate
