"""Dropout before the last layer and stochastic depth: shares, scales, nothing in inference or frozen parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small  # noqa: F401  registers the architecture "tiny"
from flax import nnx

from osteojax.errors import UserError
from osteojax.models.build import ModelSection, build, build_shapes
from osteojax.models.layers.convolution import LayerOptions, Linear
from osteojax.models.network import Network, freeze_batch_norm
from osteojax.models.resnet import BasicBlock, Bottleneck

RNG = np.random.default_rng(0)


def model(**changes):
    return build(ModelSection("tiny", conv_impl="native", **changes), "tiny", 3, seed=0)


def test_rates_grow_linearly_with_depth_and_parameters_are_the_same():
    thinned = model(stochastic_depth=0.4)
    rates = [getattr(thinned, f"stage{i}").blocks[0].drop.rate for i in range(1, 5)]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4])
    plain, own = Network(model()).init()[0], Network(thinned).init()[0]
    assert plain.keys() == own.keys() and all((plain[path] == own[path]).all() for path in plain)


@pytest.mark.parametrize("block_type, width", [(BasicBlock, 16), (Bottleneck, 4)])
def test_a_branch_is_left_out_for_an_image_at_a_time_and_scaled_where_it_stays(block_type, width):
    options = LayerOptions(conv_impl="native")
    block = block_type(16, width, 1, v1=False, options=options, rngs=nnx.Rngs(0))
    x = jnp.asarray(RNG.random((200, 4, 4, 16)), jnp.float32) + 5  # the sum stays positive: relu does nothing
    last = block.conv2 if block_type is BasicBlock else block.conv3
    last.norm.scale[...] = 0.05 * last.norm.scale[...]
    block.eval()
    branch = block(x) - x
    block.drop = nnx.data(nnx.Dropout(0.25, broadcast_dims=(1, 2, 3), rngs=nnx.Rngs(1)))
    block.drop.deterministic = False
    found = np.asarray(block(x) - x)
    left_out = np.abs(found).max((1, 2, 3)) < 1e-3
    assert left_out.mean() == pytest.approx(0.25, abs=0.09)
    np.testing.assert_allclose(found[~left_out], np.asarray(branch)[~left_out] / 0.75, rtol=1e-3, atol=1e-3)
    block.drop.deterministic = True
    np.testing.assert_allclose(block(x) - x, branch, atol=1e-3)


def test_dropout_hides_features_of_the_last_layer():
    layer = Linear(400, 1, rngs=nnx.Rngs(0))
    layer.kernel[...], layer.bias[...] = jnp.ones((400, 1)), jnp.zeros(1)
    layer.dropout = nnx.data(nnx.Dropout(0.2, rngs=nnx.Rngs(1)))
    seen = np.asarray(layer(jnp.ones((100, 400))))[:, 0] * 0.8
    assert seen.mean() == pytest.approx(320, abs=4) and seen.std() == pytest.approx(8, rel=0.3)


def test_training_draws_by_key_and_inference_draws_nothing():
    network = Network(model(dropout=0.5, stochastic_depth=0.5))
    params, stats = network.init()
    image, mask = jnp.asarray(RNG.random((4, 32, 32, 1)), jnp.float32), jnp.ones(4)
    train = jax.jit(network.train_function(frozenset(path for path in params if "norm" not in path)))
    logits = [np.asarray(train(params, stats, image, mask, jax.random.key(seed))[0]) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(logits[0], logits[1])
    assert np.abs(logits[0] - logits[2]).max() > 1e-3
    plain = Network(model())
    np.testing.assert_array_equal(
        jax.jit(network.eval_function())(params, stats, image),
        jax.jit(plain.eval_function())(params, stats, image),
    )


def test_what_is_frozen_is_never_left_out():
    thinned = model(dropout=0.5, stochastic_depth=0.5)
    paths = Network(thinned).init()[0]
    freeze_batch_norm(thinned, [path for path in paths if path.startswith(("stage4/", "head/"))])
    still = [getattr(thinned, f"stage{i}").blocks[0].drop.deterministic for i in range(1, 5)]
    assert still == [True, True, True, False] and not thinned.head.fc.dropout.deterministic


@pytest.mark.parametrize("name", ["vgg16_bn", "densenet121"])
def test_an_architecture_without_residuals_is_refused(name):
    with pytest.raises(UserError, match=f"{name} has no residual branch"):
        build_shapes(ModelSection(name, stochastic_depth=0.1), name, 3)


def test_the_inverted_residuals_of_efficientnet_have_branches():
    thinned = build_shapes(ModelSection("efficientnet_lite0", stochastic_depth=0.2), "efficientnet_lite0", 3)
    drops = [m for _, m in nnx.iter_modules(thinned) if isinstance(m, nnx.Dropout)]
    assert len(drops) == 9 and max(d.rate for d in drops) == pytest.approx(0.2)
