"""What bfloat16 training does otherwise on the way to less memory traffic, against the plain formulation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from osteojax.models.layers import pointwise
from osteojax.models.layers.convolution import ConvBN, Input, LayerOptions
from osteojax.models.layers.norm import BatchNorm
from osteojax.models.layers.pool import max_pool
from osteojax.models.stem import Stem

MASK = np.array([1, 1, 0, 1, 1, 1], np.float32)


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def assert_close(tree, wanted, tolerance):
    for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


@pytest.mark.parametrize("mask", [None, MASK])
def test_statistics_output_and_gradients_are_those_of_batch_norm(mask):
    """In float32, where only the order of the sums differs."""

    def from_moments(norm, x, kernel):
        mean, var, count = pointwise.moments(x, kernel, mask)
        factor, offset = norm.absorb(mean[None], var[None], count[None, None])
        return pointwise.affine_conv(x, kernel, factor[0], offset[0])

    def plain(norm, x, kernel):
        return norm(x @ kernel, mask)

    def run(layer):
        def loss(x, kernel, scale, bias):
            norm = BatchNorm(16)
            norm.scale[...], norm.bias[...] = scale, bias
            z = layer(norm, x, kernel)
            kept = 1 if mask is None else mask[:, None, None, None]
            return jnp.sum(jnp.sin(z * draw(6, 5, 4, 16, seed=1)) * kept), (z, norm.mean[...], norm.var[...])

        arguments = (
            jax.nn.relu(draw(6, 5, 4, 8)) + 0.1,
            draw(8, 16, seed=2),
            draw(16, seed=3),
            draw(16, seed=4),
        )
        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3), has_aux=True))(*arguments)

    assert_close(run(from_moments), run(plain), 3e-5)


def test_a_batch_of_padding_alone_changes_nothing():
    layer = ConvBN(8, 16, 1, options=LayerOptions(dtype=jnp.bfloat16), rngs=nnx.Rngs(0))
    y = layer(draw(6, 5, 4, 8), np.zeros(6))
    np.testing.assert_array_equal(layer.norm.mean[...], 0)
    np.testing.assert_array_equal(layer.norm.var[...], 1)
    assert jnp.isfinite(y).all()


@pytest.mark.slow
def test_a_widening_layer_in_bfloat16_is_the_float32_one_to_bfloat16_tolerance():
    x, target = jax.nn.relu(draw(16, 6, 6, 32)), draw(16, 6, 6, 128, seed=1)

    def run(dtype):
        graph, state = nnx.split(ConvBN(32, 128, 1, options=LayerOptions(dtype=dtype), rngs=nnx.Rngs(0)))

        def loss(state, x):
            layer = nnx.merge(graph, state)
            z = layer(x).astype(jnp.float32)
            return jnp.mean(jnp.sin(z + target)), (z, layer.norm.mean[...], layer.norm.var[...])

        (_, values), (gradient, dx) = jax.value_and_grad(loss, (0, 1), has_aux=True)(state, x)
        parameters = nnx.filter_state(gradient, nnx.Param)
        return values, jax.tree.leaves(parameters), dx

    # A bfloat16 number has 8 bits: 0.4 % of its size.
    assert_close(run(jnp.bfloat16), run(jnp.float32), 0.015)


def test_only_widening_layers_that_learn_in_bfloat16_take_it(monkeypatch):
    calls = []
    original = pointwise.affine_conv
    monkeypatch.setattr(pointwise, "affine_conv", lambda *a: calls.append(a) or original(*a))

    def count(inputs, outputs, size=1, frozen=False, stride=1, **options):
        options = LayerOptions(**{"dtype": jnp.bfloat16, **options})
        layer = ConvBN(inputs, outputs, size, stride=stride, options=options, rngs=nnx.Rngs(0))
        layer.norm.use_running_average = frozen
        calls.clear()
        layer(draw(4, 6, 6, inputs))
        return len(calls)

    assert count(8, 32) == 1
    assert count(32, 8) == count(8, 32, size=3) == count(8, 32, stride=2) == count(8, 32, frozen=True) == 0
    assert count(8, 32, bn_parts=2) == count(8, 32, dtype=jnp.float32) == 0


@pytest.mark.parametrize(
    "groups, frozen",
    [(2, True), *(pytest.param(*one, marks=pytest.mark.slow) for one in ((1, False), (1, True), (2, False)))],
)
def test_a_stem_that_normalises_after_the_maximum_is_the_published_one(frozen, groups):
    """Values, gradients and statistics, with scales of either sign: ReLU and norm before the maximum, as published."""

    def pool(y):
        return max_pool(y, 3, 2, padding=1)

    def published(stem, x, mask):
        return pool(jax.nn.relu(stem.conv(x, mask)))

    def after_the_maximum(stem, x, mask):
        return jax.nn.relu(stem.conv.pooled(x, mask, pool))

    def run(forward):
        options = LayerOptions(bn_parts=groups)
        mean, std = (0.5, 0.4, 0.3), (0.2, 0.2, 0.2)
        stem = Stem(image=Input(1, mean, std), options=options, rngs=nnx.Rngs(0))
        norm = stem.conv.norm
        norm.scale[...], norm.bias[...] = draw(64, seed=1), draw(64, seed=2)
        norm.mean[...], norm.var[...] = draw(64, seed=3), jnp.square(draw(64, seed=4)) + 0.1
        norm.use_running_average = frozen
        graph, params, rest = nnx.split(stem, nnx.Param, ...)

        def loss(params, x):
            stem = nnx.merge(graph, params, rest, copy=True)
            y = forward(stem, x, MASK)
            kept = MASK[:, None, None, None]
            return jnp.sum(jnp.sin(y) * kept), (y * kept, stem.conv.norm.mean[...], stem.conv.norm.var[...])

        return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, jnp.abs(draw(6, 33, 32, 1)))

    assert_close(run(after_the_maximum), run(published), 3e-5)


@pytest.mark.parametrize("dtype, calls", [(jnp.bfloat16, 1), (jnp.float32, 0)])
def test_the_stem_normalises_after_the_maximum_in_bfloat16_alone(monkeypatch, dtype, calls):
    seen, pooled = [], ConvBN.pooled
    monkeypatch.setattr(ConvBN, "pooled", lambda *args: seen.append(args) or pooled(*args))
    options = LayerOptions(dtype=dtype)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.2, 0.2)
    stem = Stem(image=Input(1, mean, std), options=options, rngs=nnx.Rngs(0))
    assert stem(draw(2, 32, 32, 1)).shape == (2, 8, 8, 64)
    assert len(seen) == calls
