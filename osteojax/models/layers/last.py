"""The last layer of a classifier: what turns features into class logits, and what they mean.

Whatever the kind, its output is (B, K) logits whose softmax is the probability of the classes: nothing downstream knows
of it. The ordinal kinds give log-probabilities, which are logits already. A T-score follows behind the logits
(`osteojax.models.layers.t_score`).
"""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from osteojax.models.layers.convolution import Linear
from osteojax.models.layers.t_score import ReadFromTScore

Last = Literal["softmax", "coral", "corn", "t_score"]


class Coral(Linear):
    """One direction for all thresholds: P(y > k) = sigmoid(w x + b_k) (Cao, Mirjalili and Raschka 2020).

    Their theorem 1 shows b_0 >= b_1 >= ... at the optimum. Here that holds throughout, b_k+1 = b_k - softplus(gap_k),
    since the probabilities of the classes are the differences.

    Attributes:
        kernel, bias: w (in, 1) and b_0 (1,).
        gaps: (K - 2,), of 1 at the start.
    """

    def __init__(self, in_features: int, classes: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(in_features, 1, rngs=rngs)
        self.gaps = nnx.Param(jnp.full(classes - 2, jnp.log(jnp.expm1(1.0)), jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, in) -> log-probabilities (B, K) float32."""
        gaps = jax.nn.softplus(self.gaps[...])
        above = super().__call__(x) - jnp.concatenate([jnp.zeros(1), jnp.cumsum(gaps)])
        # sigmoid(a) - sigmoid(a - gap) = sigmoid(a) sigmoid(gap - a) (1 - exp(-gap)), without cancellation.
        between = (
            jax.nn.log_sigmoid(above[:, :-1]) + jax.nn.log_sigmoid(-above[:, 1:]) + jnp.log(-jnp.expm1(-gaps))
        )
        first, last = jax.nn.log_sigmoid(-above[:, :1]), jax.nn.log_sigmoid(above[:, -1:])
        return jnp.concatenate([first, between, last], axis=-1)


class Corn(Linear):
    """A binary question for each threshold: P(y > k | y > k - 1) = sigmoid(w_k x + b_k) (Shi, Cao and Raschka 2023).

    Their loss asks each question only of the examples that it applies to (eq. 5). Summed over the questions that is
    -log p of the true class: cross-entropy trains it.
    """

    def __init__(self, in_features: int, classes: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(in_features, classes - 1, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, in) -> log-probabilities (B, K) float32."""
        raw = super().__call__(x)
        passed = jnp.cumsum(jax.nn.log_sigmoid(raw), axis=-1)  # log P(y > k), eq. 3
        none = jnp.zeros_like(raw[:, :1])
        stopped = jnp.concatenate([jax.nn.log_sigmoid(-raw), none], axis=-1)
        return jnp.concatenate([none, passed], axis=-1) + stopped


_ORDINAL: dict[str, type[Coral] | type[Corn]] = {"coral": Coral, "corn": Corn}


def last_layer(kind: Last, plain: Linear, classes: int, *, rngs: nnx.Rngs) -> Linear:
    """The layer of that kind in the place of a plain one, which "softmax" keeps."""
    if kind == "softmax":
        return plain
    if kind == "t_score":
        return ReadFromTScore(plain.kernel.shape[0], rngs=rngs)
    return _ORDINAL[kind](plain.kernel.shape[0], classes, rngs=rngs)
