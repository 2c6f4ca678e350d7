"""What a step learns of T-scores."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from osteojax.models.layers.t_score import PARAMETERS


def known_of(score: Float[Array, " batch"], mask: Float[Array, " batch"]) -> Float[Array, " batch"]:
    """1 where an example counts and has a T-score, else 0; NaN is a missing one."""
    return mask * jnp.isfinite(score)


def negative_log_likelihood(
    output: Float[Array, "batch numbers"], score: Float[Array, " batch"]
) -> Float[Array, " batch"]:
    """-log N(score; t, sigma^2) but for a constant, in nats; 0 where the score is missing.

    With a sigma that is learned the squared error weighs itself against the class's loss (Kendall, Gal and Cipolla
    2018, eq. 7).

    Args:
        output: of the network, with t and log sigma at its end.
        score: NaN where it is missing.
    """
    t, log_sigma = output[:, -PARAMETERS], output[:, -PARAMETERS + 1]
    known = jnp.isfinite(score)
    error = jnp.where(known, score, t) - t  # no NaN on the way, whose gradient would be one
    return jnp.where(known, jnp.square(error) * jnp.exp(-2 * log_sigma) / 2 + log_sigma, 0.0)
