"""Activations that JAX spells otherwise than the networks here need."""

import jax
import jax.numpy as jnp


@jax.custom_vjp
def relu(x: jax.Array) -> jax.Array:
    """max(x, 0), with gradient 0 at 0; NaN stays NaN.

    Written as a choice, because XLA's CPU compiler takes a maximum for so cheap that it computes it again in each
    operation that reads it: the output of a residual block, read by the next block and by its shortcut, becomes a
    pass over the outputs of all blocks before it. The gradient needs the output alone, which the next layer keeps.
    """
    return jnp.where(x <= 0, 0, x)


def _relu_fwd(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    y = relu(x)
    return y, y


def _relu_bwd(y: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
    return (jnp.where(y > 0, dy, 0),)


relu.defvjp(_relu_fwd, _relu_bwd)


def relu6(x: jax.Array) -> jax.Array:
    """min(max(x, 0), 6)."""
    return jnp.clip(x, 0, 6)
