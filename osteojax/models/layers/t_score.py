"""Layers that give a T-score, a normal distribution N(t, sigma^2) of one sigma for all images, beside or for the class.

Their output ends with t and log sigma; the class logits stand before.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.scipy.special import log_ndtr
from jaxtyping import Array, Float

from osteojax.models.layers.convolution import Linear

WHO = (-1.0, -2.5)
"""Where one class ends and the next begins (World Health Organization 1994): healthy, osteopenia, osteoporosis."""
PARAMETERS = 2
"""Numbers of the distribution, at the end of the output."""


def log_shares(t: Float[Array, " batch"], log_sigma: Float[Array, " batch"]) -> Float[Array, "batch classes"]:
    """Log of the share of N(t, sigma^2) above the first limit of `WHO`, between two, and below the last."""
    z = (jnp.asarray(WHO) - t[:, None]) * jnp.exp(-log_sigma)[:, None]
    upper, lower = z[:, :-1], z[:, 1:]
    # Above the mean by the upper tails: the difference of two numbers near 1 has no digits left.
    flip = lower > 0
    larger, smaller = jnp.where(flip, -lower, upper), jnp.where(flip, -upper, lower)
    between = log_ndtr(larger) + jnp.log1p(-jnp.exp(log_ndtr(smaller) - log_ndtr(larger)))
    return jnp.concatenate([log_ndtr(-z[:, :1]), between, log_ndtr(z[:, -1:])], axis=-1)


class TScore(Linear):
    """t = w x + b, and sigma."""

    def __init__(self, in_features: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(in_features, 1, rngs=rngs)
        self.log_sigma = nnx.Param(jnp.zeros((), jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, in) -> t and log sigma (B, 2) float32."""
        t = super().__call__(x)
        return jnp.concatenate([t, jnp.broadcast_to(self.log_sigma[...], t.shape)], axis=-1)


class ReadFromTScore(TScore):
    """The class read from the T-score: the shares of its distribution between the limits are the probabilities."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, in) -> log-probabilities of the three classes, t and log sigma, (B, 5) float32."""
        found = super().__call__(x)
        return jnp.concatenate([log_shares(found[:, 0], found[:, 1]), found], axis=-1)


class WithTScore(nnx.Module):
    """A classifier's last layer, and a T-score from the same features."""

    def __init__(self, last: Linear, in_features: int, *, rngs: nnx.Rngs) -> None:
        self.last = last
        self.t_score = TScore(in_features, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, in) -> logits, t and log sigma, (B, K + 2) float32."""
        return jnp.concatenate([self.last(x), self.t_score(x)], axis=-1)
