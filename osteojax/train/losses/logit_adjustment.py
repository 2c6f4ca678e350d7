"""Cross-entropy that is told how frequent the classes are."""

import dataclasses
from typing import Annotated

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from osteojax.config import AtLeastOne, Fraction, NotNegative
from osteojax.errors import UserError
from osteojax.train.losses.cross_entropy import CrossEntropy, cross_entropy
from osteojax.train.losses.registry import LOSSES


@dataclasses.dataclass(frozen=True)
class LogitAdjustment:
    """How much of the prior is taken out, the smoothing, and the classes' counts.

    Attributes:
        tau: 1 is consistent for the balanced error; 0 is cross-entropy.
        label_smoothing: as of cross-entropy.
        class_counts: of the training split, filled in by the run; empty for classes of equal size.
    """

    tau: Annotated[float, NotNegative] = 1.0
    label_smoothing: Annotated[float, Fraction] = 0.0
    class_counts: tuple[Annotated[int, AtLeastOne], ...] = ()


@LOSSES.function("logit_adjustment", settings=LogitAdjustment)
def logit_adjustment(
    logits: Float[Array, "batch classes"], label: Int[Array, " batch"], settings: LogitAdjustment
) -> Float[Array, " batch"]:
    """Cross-entropy of logits + tau log prior (Menon et al. 2021, eq. 10).

    The logits themselves, which validation and prediction read, then speak of classes of equal size.
    """
    if len(settings.class_counts) not in (0, logits.shape[-1]):
        raise UserError(
            f"loss.settings.class_counts has {len(settings.class_counts)} counts for {logits.shape[-1]} classes; leave "
            "it out, and the run counts its training split"
        )
    counts = jnp.asarray(settings.class_counts or (1,) * logits.shape[-1], jnp.float32)
    adjusted = logits + settings.tau * jnp.log(counts / counts.sum())
    return cross_entropy(adjusted, label, CrossEntropy(settings.label_smoothing))
