"""max_pool: the CPU's formulation against XLA's own, values and gradients, ties included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from osteojax.models.layers.pool import max_pool


def xla(x, size, stride, padding):
    around = (padding, padding)
    return jax.lax.reduce_window(
        x,
        -jnp.inf,
        jax.lax.max,
        (1, size, size, 1),
        (1, stride, stride, 1),
        ((0, 0), around, around, (0, 0)),
    )


# (height, width, window, stride, padding): ResNet's, VGG's, and what a corner case needs.
CASES = [
    (16, 14, 3, 2, 1),
    (15, 17, 3, 2, 1),
    (8, 9, 2, 2, 0),
    (7, 7, 3, 1, 1),
    (11, 10, 2, 3, 0),
    (5, 5, 5, 1, 2),
]


@pytest.mark.parametrize("case", CASES)
def test_equals_xla(case):
    height, width, size, stride, padding = case
    rng = np.random.default_rng(0)
    # Few distinct values: most windows hold their maximum several times, as after a ReLU.
    x = jnp.asarray(rng.integers(-2, 3, (2, height, width, 3)), jnp.float32)

    def run(pool):
        y, vjp = jax.vjp(lambda x: pool(x, size, stride, padding), x)
        dy = jnp.asarray(np.random.default_rng(1).integers(1, 9, y.shape), jnp.float32)
        return y, vjp(dy)[0]

    for ours, theirs in zip(jax.jit(lambda: run(max_pool))(), jax.jit(lambda: run(xla))(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_other_platforms_keep_their_own():
    x = jnp.zeros((1, 8, 8, 2))
    gradient = jax.jit(jax.grad(lambda x: max_pool(x, 3, 2, 1).sum())).trace(x)
    assert "select_and_scatter" in gradient.lower(lowering_platforms=("tpu",)).as_text()
    assert "select_and_scatter" not in gradient.lower(lowering_platforms=("cpu",)).as_text()
