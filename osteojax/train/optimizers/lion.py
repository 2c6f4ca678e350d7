"""Lion."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import optax

from osteojax.config import Fraction
from osteojax.train.optimizers.registry import OPTIMIZERS


@dataclasses.dataclass(frozen=True)
class Lion:
    """Shares of the past in the sign that is taken, and in the moment that is kept.

    Of its own defaults, not those of the config's `b1` and `b2`, which are Adam's: set them in `optimizer.settings`.
    """

    beta1: Annotated[float, Fraction] = 0.9
    beta2: Annotated[float, Fraction] = 0.99


@OPTIMIZERS.function("lion", settings=Lion)
def lion(
    decay: optax.GradientTransformation, rate: optax.GradientTransformation, settings: Lion
) -> Sequence[optax.GradientTransformation]:
    """Chen et al. 2023, algorithm 2. Its steps are of +-1: it wants a third to a tenth of the rate of AdamW."""
    return optax.scale_by_lion(b1=settings.beta1, b2=settings.beta2), decay, rate
