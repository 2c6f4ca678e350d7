"""Multinomial logistic regression with an L2 penalty, over a whole path of its strengths."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int

# Of the size of the penalty's gradient: the kernel is then as near to its optimum, relatively (see `path`).
TOLERANCE = 1e-4
_ROUNDING = 1e-10
_MOST_ITERATIONS = 2000
# Below this share of the largest spread a feature's own is rounding.
_NO_SPREAD = 1e-6


@dataclasses.dataclass(frozen=True)
class Path:
    """The solutions, S of them, one a strength.

    Attributes:
        kernel: (S, F, K) float64, of the features as they are, not standardised.
        bias: (S, K) float64, likewise.
        penalised: (S, F, K) float64, the kernel of the standardised features, whose size is penalised.
        loss: (S,) weighted mean cross-entropy of the examples, without the penalty.
        iterations: (S,) of L-BFGS.
        converged: (S,) bool.
    """

    kernel: np.ndarray
    bias: np.ndarray
    penalised: np.ndarray
    loss: np.ndarray
    iterations: np.ndarray
    converged: np.ndarray


def path(
    features: Float[np.ndarray, "n features"],
    labels: Int[np.ndarray, " n"],
    weights: Float[np.ndarray, " n"],
    classes: int,
    strengths: Float[np.ndarray, " strengths"],
) -> Path:
    """Minimises sum_i w_i CE(z_i W + b, y_i) / sum_i w_i + strength |W|^2 / 2, z the standardised features.

    The bias is free, as it is in scikit-learn, whose `LogisticRegression(C=1 / (strength sum_i w_i))` has the same
    minimum for three or more classes. (Of two it keeps one vector, w_1 - w_0, and its C is twice this one.) L-BFGS
    (Liu and Nocedal 1989) goes from the strongest penalty to the weakest, each solution the next one's start. The
    objective is strongly convex in W, so that |gradient| <= TOLERANCE strength |W| leaves W that near to its optimum.
    All is in float64: at the weak end float32 stops three digits short of it, and the problem is small.

    Args:
        features: (N, F). Mean 0 and standard deviation 1 are given to them here; one that hardly varies becomes 0.
        labels: (N,) in 0 .. K - 1.
        weights: (N,) of the examples, above 0.
        classes: K.
        strengths: (S,) above 0, from large to small.
    """
    mean, spread = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    varies = spread > _NO_SPREAD * np.maximum(np.abs(mean), spread.max())
    scale = np.where(varies, 1 / np.where(varies, spread, 1.0), 0.0)
    standardised = (features - mean) * scale
    with jax.enable_x64(True):
        found = _solutions(
            jnp.asarray(standardised),
            jnp.asarray(np.eye(classes)[labels] * (weights / weights.sum())[:, None]),
            jnp.asarray(strengths, jnp.float64),
        )
        (penalised, bias), loss, iterations, converged = jax.tree.map(np.asarray, found)
    kernel = penalised * scale[:, None]
    return Path(kernel, bias - mean @ kernel, penalised, loss, iterations, converged)


@jax.jit
def _solutions(z: jax.Array, targets: jax.Array, strengths: jax.Array) -> Any:
    """((W, b), loss, iterations, converged) of each strength; `targets` (N, K) are one-hot, times their weights."""
    optimizer = optax.lbfgs()

    def loss_of(parameters: tuple[jax.Array, jax.Array]) -> jax.Array:
        kernel, bias = parameters
        return -jnp.sum(targets * jax.nn.log_softmax(z @ kernel + bias))

    def solve(begun: Any, strength: jax.Array) -> Any:
        def objective(parameters: tuple[jax.Array, jax.Array]) -> jax.Array:
            return loss_of(parameters) + strength / 2 * jnp.sum(parameters[0] ** 2)

        value_and_grad = optax.value_and_grad_from_state(objective)

        def is_near(parameters: Any, state: Any) -> jax.Array:
            gradient = optax.tree.norm(optax.tree.get(state, "grad"))
            return gradient <= TOLERANCE * strength * jnp.linalg.norm(parameters[0]) + _ROUNDING

        def goes_on(carried: Any) -> jax.Array:
            parameters, state, iteration = carried
            return (iteration == 0) | (~is_near(parameters, state) & (iteration < _MOST_ITERATIONS))

        def iterate(carried: Any) -> Any:
            parameters, state, iteration = carried
            value, gradient = value_and_grad(parameters, state=state)
            updates, state = optimizer.update(
                gradient, state, parameters, value=value, grad=gradient, value_fn=objective
            )
            return optax.apply_updates(parameters, updates), state, iteration + 1

        parameters, state, iterations = jax.lax.while_loop(
            goes_on, iterate, (begun, optimizer.init(begun), 0)
        )
        return parameters, (parameters, loss_of(parameters), iterations, is_near(parameters, state))

    begun = (jnp.zeros((z.shape[1], targets.shape[1])), jnp.zeros(targets.shape[1]))
    return jax.lax.scan(solve, begun, strengths)[1]
