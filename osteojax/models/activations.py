"""Activations that JAX spells otherwise than the networks here need."""

import jax
import jax.numpy as jnp


def relu6(x: jax.Array) -> jax.Array:
    """min(max(x, 0), 6)."""
    return jnp.clip(x, 0, 6)
