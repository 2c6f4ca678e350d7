"""The loss of CORAL, consistent rank logits."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from osteojax.registry import NoSettings
from osteojax.train.losses.registry import LOSSES


@LOSSES.function("coral")
def coral(
    logits: Float[Array, "batch classes"], label: Int[Array, " batch"], settings: NoSettings
) -> Float[Array, " batch"]:
    """Sum of the binary cross-entropies of y > 0, y > 1, ..., y > K - 2 (Cao, Mirjalili and Raschka 2020, eq. 4).

    Log-probabilities say P(y > k) as well as binary logits do: log P(y > k) is the log-sum-exp of the classes above k.
    It is CORAL together with the last layer of that name (`model.head="coral"`), and a run without it is refused.
    """
    above = jax.lax.cumlogsumexp(logits, axis=1, reverse=True)[:, 1:]
    below = jax.lax.cumlogsumexp(logits, axis=1)[:, :-1]
    total = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    truth = label[:, None] > jnp.arange(logits.shape[-1] - 1)
    return jnp.sum(total - jnp.where(truth, above, below), axis=-1)
