"""Focal loss."""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from osteojax.config import NotNegative
from osteojax.train.losses.registry import LOSSES


@dataclasses.dataclass(frozen=True)
class Focal:
    """How much less an example counts that is already recognised; at 0 this is cross-entropy."""

    gamma: Annotated[float, NotNegative] = 2.0


@LOSSES.function("focal", settings=Focal)
def focal(
    logits: Float[Array, "batch classes"], label: Int[Array, " batch"], settings: Focal
) -> Float[Array, " batch"]:
    """-(1 - p)^gamma log p (Lin et al. 2017, eq. 4); its alpha is the class weight of the train step."""
    truth = jax.nn.one_hot(label, logits.shape[-1], dtype=bool)
    log_p = jnp.sum(jax.nn.log_softmax(logits), axis=-1, where=truth)
    # Of the other classes' own probabilities: 1 - p would be 0 at a sure answer, and its power without a gradient.
    others = jax.nn.logsumexp(jnp.where(truth, -jnp.inf, logits), axis=-1)
    log_rest = others - jax.nn.logsumexp(logits, axis=-1)
    return -jnp.exp(settings.gamma * log_rest) * log_p
