"""ReLU of a residual sum: JAX's values and gradients, in a form that XLA's CPU compiler computes once."""

import jax
import jax.numpy as jnp
import numpy as np

from osteojax.models.layers.activations import relu_of_sum


def test_value_and_gradient_are_those_of_jax_and_nan_stays_nan():
    x = jnp.array([-jnp.inf, -1.5, -0.0, 0.0, 1e-30, 2.0, jnp.inf, jnp.nan])
    dy = jnp.arange(1.0, 9.0)
    y, vjp = jax.vjp(relu_of_sum, x)
    expected, expected_vjp = jax.vjp(jax.nn.relu, x)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(vjp(dy)[0], expected_vjp(dy)[0])
    assert relu_of_sum(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_on_cpu_a_chain_of_residual_blocks_reads_each_branch_once():
    """With a plain maximum the last block's pass would read the branches of all the blocks before it."""
    x, kernel = jnp.ones((64, 128)), jnp.ones((4, 128, 128))

    def blocks(x, kernel):
        for each in kernel:
            x = relu_of_sum(x + x @ each)
        return x

    text = jax.jit(blocks).lower(x, kernel).compile().as_text()
    passes = [line for line in text.splitlines() if "kind=kLoop" in line and "f32[64,128]" in line]
    assert passes and max(line.split(" fusion(")[1].split(")")[0].count("%") for line in passes) <= 3
