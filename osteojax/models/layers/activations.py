"""Activations that JAX spells or differentiates otherwise than the networks here need."""

import jax
import jax.numpy as jnp

from osteojax.models.layers.platform import by_platform


@jax.custom_vjp
def relu_of_sum(x: jax.Array) -> jax.Array:
    """max(x, 0) for a residual sum, with gradient 0 at 0; NaN stays NaN.

    On CPU written as a choice, because the compiler there takes a maximum for so cheap that it computes it again in
    each operation that reads it: the output of a residual block, read by the next block and by its shortcut, becomes
    a pass over the outputs of all blocks before it. On TPU a maximum is what fuses best.

    The gradient looks at the result, which the next convolution keeps, not at the sum, which nothing else needs: one
    map less is written. Behind a norm `jax.nn.relu` is as good on CPU and better on TPU, where its argument is
    recomputed.
    """
    return by_platform(x, cpu=lambda x: jnp.where(x <= 0, 0, x), default=jax.nn.relu, portable=jax.nn.relu)


def _relu_of_sum_fwd(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    y = relu_of_sum(x)
    return y, y


def _relu_of_sum_bwd(y: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
    return (jnp.where(y > 0, dy, 0),)


relu_of_sum.defvjp(_relu_of_sum_fwd, _relu_of_sum_bwd)


def relu6(x: jax.Array) -> jax.Array:
    """min(max(x, 0), 6)."""
    return jnp.clip(x, 0, 6)
