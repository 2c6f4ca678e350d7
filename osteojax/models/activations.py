"""Activations that JAX spells or differentiates otherwise than the networks here need."""

import jax
import jax.numpy as jnp


def relu6(x: jax.Array) -> jax.Array:
    """min(max(x, 0), 6)."""
    return jnp.clip(x, 0, 6)


@jax.custom_vjp
def relu_of_sum(x: jax.Array) -> jax.Array:
    """max(x, 0) whose gradient looks at the result, not at x.

    Behind a residual sum nothing else needs x in the backward pass, while the next block's convolution keeps the
    result: one map less is written. Behind a norm `jax.nn.relu` is better, whose argument XLA recomputes.
    """
    return jax.nn.relu(x)


def _relu_of_sum_fwd(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    y = relu_of_sum(x)
    return y, y


def _relu_of_sum_bwd(y: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
    return (jnp.where(y > 0, dy, 0),)


relu_of_sum.defvjp(_relu_of_sum_fwd, _relu_of_sum_bwd)
