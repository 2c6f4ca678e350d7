"""Batch norm: masks, groups, sharded batches. Equality with PyTorch's is in test_models_parity.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from osteojax.models import BatchNorm

SHAPE = (8, 5, 6, 3)


@pytest.fixture
def x():
    rng = np.random.default_rng(0)
    return (rng.normal(size=SHAPE) * [0.1, 1, 30] + [5, 0, -200]).astype(np.float32)


@nnx.jit
def apply(norm, x, mask=None):
    return norm(x, mask)


def reference(norm, x):
    """Algorithm 1 of Ioffe and Szegedy in float64 (statistics before the update: mean 0, variance 1)."""
    rows = x.astype(np.float64).reshape(-1, x.shape[-1])
    mean, var = rows.mean(0), rows.var(0)
    y = (x - mean) / np.sqrt(var + norm.eps)
    return y, 0.1 * mean, 0.9 + 0.1 * rows.var(0, ddof=1)


def assert_statistics(norm, mean, var):
    np.testing.assert_allclose(norm.mean[...], mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(norm.var[...], var, rtol=1e-4)


def test_normalises_by_the_batch_and_keeps_the_unbiased_variance(x):
    norm = BatchNorm(3)
    y = apply(norm, x)
    wanted, mean, var = reference(norm, x)
    # the one-pass variance about a running mean of zero: |mean| / std = 50 costs some 2,500 roundings
    np.testing.assert_allclose(y, wanted, atol=2e-3)
    assert_statistics(norm, mean, var)


def test_the_variance_does_not_cancel_once_the_running_mean_is_near(x):
    """Channels with mean 1e4 and deviation 1: the plain E[x^2] - E[x]^2 has nothing left in float32."""
    norm = BatchNorm(3)
    norm.mean[...] = jnp.full(3, 1e4)
    far = np.random.default_rng(1).normal(1e4, 1, SHAPE).astype(np.float32)
    wanted, _, _ = reference(norm, far)
    np.testing.assert_allclose(apply(norm, far), wanted, atol=2e-3)


def test_padded_rows_do_not_enter_the_statistics(x):
    padded, plain = BatchNorm(3), BatchNorm(3)
    mask = np.array([1, 1, 0, 1, 1, 0, 0, 1])
    garbage = np.where(mask[:, None, None, None] == 1, x, np.inf).astype(np.float32)
    y = apply(padded, garbage, mask)
    wanted = apply(plain, x[mask == 1])
    np.testing.assert_allclose(y[mask == 1], wanted, atol=2e-3)
    assert_statistics(padded, plain.mean[...], plain.var[...])


def test_padded_rows_do_not_enter_the_gradient(x):
    mask = np.array([1, 1, 0, 1, 1, 0, 0, 1])

    def loss(x):
        y = BatchNorm(3)(x, mask)
        return (jnp.sin(y) * mask[:, None, None, None]).sum()

    gradient = jax.jit(jax.grad(loss))(x)
    assert not gradient[mask == 0].any() and gradient[mask == 1].any()


def test_a_batch_of_padding_alone_changes_nothing(x):
    norm = BatchNorm(3)
    y = apply(norm, x, np.zeros(8))
    np.testing.assert_array_equal(norm.mean[...], 0)
    np.testing.assert_array_equal(norm.var[...], 1)
    assert np.isfinite(y).all()


def test_groups_are_what_devices_without_synchronisation_compute(x):
    norm = BatchNorm(3, parts=4)
    y = apply(norm, x)
    alone = [BatchNorm(3) for _ in range(4)]
    slices = np.split(x, 4)
    np.testing.assert_allclose(
        y, np.concatenate([apply(n, part) for n, part in zip(alone, slices, strict=True)]), atol=1e-4
    )
    assert_statistics(norm, *(np.mean([getattr(n, s)[...] for n in alone], 0) for s in ("mean", "var")))
    with pytest.raises(ValueError, match="does not divide"):
        BatchNorm(3, parts=3)(x)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_a_sharded_batch_has_the_statistics_of_the_whole(x, axis_type):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(axis_type,))
    sharded = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    one, eight = BatchNorm(3), BatchNorm(3)
    np.testing.assert_allclose(apply(eight, sharded), apply(one, x), atol=1e-3)
    assert_statistics(eight, one.mean[...], one.var[...])


def test_bfloat16_input_has_float32_statistics():
    """8,192 values near 1: a bfloat16 sum would stop growing at 256."""
    norm = BatchNorm(1)
    x = (
        jnp.ones((8, 32, 32, 1), jnp.bfloat16)
        + jnp.tile(jnp.asarray([-0.25, 0.25], jnp.bfloat16), 16)[:, None]
    )
    y = apply(norm, x)
    assert y.dtype == jnp.bfloat16 and norm.var[...].dtype == jnp.float32
    np.testing.assert_allclose(norm.mean[...], 0.1, rtol=1e-6)
    np.testing.assert_allclose(norm.var[...], 0.9 + 0.1 * 0.0625 * 8192 / 8191, rtol=1e-6)


def test_running_statistics_normalise_and_stay(x):
    norm = BatchNorm(3)
    norm.mean[...], norm.var[...] = jnp.asarray([5.0, 0, -200]), jnp.asarray([0.01, 1, 900])
    norm.eval()
    y = apply(norm, x)
    np.testing.assert_allclose(
        y, (x - [5, 0, -200]) / np.sqrt(np.array([0.01, 1, 900]) + 1e-5), rtol=1e-4, atol=1e-4
    )
    np.testing.assert_array_equal(norm.mean[...], [5, 0, -200])
