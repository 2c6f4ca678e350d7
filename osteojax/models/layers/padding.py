"""Zero padding of the two image axes."""

import itertools

import jax.numpy as jnp
from jax import Array, lax

Padding = tuple[tuple[int, int], tuple[int, int]]
"""((top, bottom), (left, right)) in pixels."""


def pad(x: Array, padding: Padding, value: float = 0) -> Array:
    """x (N, H, W, C) with `value` around it; a negative amount crops."""
    if not any(itertools.chain(*padding)):
        return x
    config = ((0, 0, 0), (*padding[0], 0), (*padding[1], 0), (0, 0, 0))
    return lax.pad(x, jnp.asarray(value, x.dtype), config)
