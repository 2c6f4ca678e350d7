"""Squared earth mover's distance between ordered classes."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from osteojax.registry import NoSettings
from osteojax.train.losses.registry import LOSSES


@LOSSES.function("squared_emd")
def squared_emd(
    logits: Float[Array, "batch classes"], label: Int[Array, " batch"], settings: NoSettings
) -> Float[Array, " batch"]:
    """Sum over k of (P(y <= k) - [label <= k])^2 (Hou et al. 2016, eq. 9), 0 to classes - 1.

    A mistake by two classes costs more than one by one; it is a proper score (the ranked probability score).
    """
    thresholds = jnp.arange(logits.shape[-1])
    cumulative = jnp.cumsum(jax.nn.softmax(logits), axis=-1)
    return jnp.sum(jnp.square(cumulative - (label[:, None] <= thresholds)), axis=-1)
