"""Softmax cross-entropy."""

import dataclasses
from typing import Annotated

import jax
import optax
from jaxtyping import Array, Float, Int

from osteojax.config import Fraction
from osteojax.train.losses.registry import LOSSES


@dataclasses.dataclass(frozen=True)
class CrossEntropy:
    """The share of the target that is spread over all classes."""

    label_smoothing: Annotated[float, Fraction] = 0.0


@LOSSES.function("cross_entropy", settings=CrossEntropy)
def cross_entropy(
    logits: Float[Array, "batch classes"], label: Int[Array, " batch"], settings: CrossEntropy
) -> Float[Array, " batch"]:
    """In nats, with label smoothing (Szegedy et al. 2016)."""
    target = optax.smooth_labels(jax.nn.one_hot(label, logits.shape[-1]), settings.label_smoothing)
    return optax.softmax_cross_entropy(logits, target)
