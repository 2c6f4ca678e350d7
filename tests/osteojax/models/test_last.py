"""The ordinal last layers against their papers' formulas, in plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from flax import nnx

from osteojax.models.build import ModelSection, build
from osteojax.models.layers.convolution import Linear
from osteojax.models.layers.last import last_layer
from osteojax.models.network import Network
from osteojax.run.open import open_run
from osteojax.train.loop import train
from osteojax.train.losses.registry import LOSSES

RNG = np.random.default_rng(0)
X = RNG.normal(size=(9, 6)).astype(np.float32)


def layer(kind, classes=4):
    return last_layer(kind, Linear(6, classes, rngs=nnx.Rngs(0)), classes, rngs=nnx.Rngs(1))


def sigmoid(x):
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def test_coral_shares_one_direction_and_keeps_its_thresholds_in_order():
    coral = layer("coral")
    coral.gaps[...] = jnp.array([-3.0, 2.0])
    raw = X @ np.asarray(coral.kernel[...]) + np.asarray(coral.bias[...])
    steps = np.log1p(np.exp([-3.0, 2.0]))
    above = sigmoid(raw - np.concatenate([[0], np.cumsum(steps)]))
    edges = np.concatenate([np.ones((9, 1)), above, np.zeros((9, 1))], -1)
    np.testing.assert_allclose(np.exp(coral(X)), edges[:, :-1] - edges[:, 1:], rtol=1e-4, atol=1e-6)


def test_corn_is_a_chain_of_conditional_probabilities():
    corn = layer("corn")
    q = sigmoid(X @ np.asarray(corn.kernel[...]) + np.asarray(corn.bias[...]))
    expected = np.stack([1 - q[:, 0], q[:, 0] * (1 - q[:, 1]), q[:, 0] * q[:, 1] * (1 - q[:, 2]), q.prod(-1)])
    np.testing.assert_allclose(np.exp(corn(X)).T, expected, rtol=1e-4)


def test_cross_entropy_of_corn_is_its_papers_loss():
    """Equation 5, over the conditional subsets, without the constant in front."""
    corn, label = layer("corn"), RNG.integers(0, 4, 9)
    q = sigmoid(X @ np.asarray(corn.kernel[...]) + np.asarray(corn.bias[...]))
    total = 0.0
    for k in range(3):
        for i in np.flatnonzero(label > k - 1):
            total -= np.log(q[i, k]) if label[i] > k else np.log(1 - q[i, k])
    found = LOSSES.bind("cross_entropy", {}, {}, "")(corn(X), jnp.asarray(label)).sum()
    np.testing.assert_allclose(found, total, rtol=1e-4)


@pytest.mark.parametrize("kind", ["coral", "corn"])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_an_ordinal_layer_gives_finite_log_probabilities_and_gradients(kind, classes):
    one = layer(kind, classes)
    for scale in (1.0, 1e3):
        logits = one(X * scale)
        assert logits.shape == (9, classes) and np.isfinite(logits).all()
        np.testing.assert_allclose(jnp.exp(logits).sum(-1), 1, rtol=1e-4)
        gradient = nnx.grad(lambda m, s=scale: m(X * s)[:, 0].sum())(one)
        assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))


@pytest.mark.parametrize("kind, numbers", [("softmax", 3), ("coral", 3), ("corn", 3), ("t_score", 5)])
def test_the_number_of_rows_may_be_left_open(kind, numbers):
    """As an exported program does (`osteojax export`)."""
    (rows,) = jax.export.symbolic_shape("b")
    assert jax.eval_shape(layer(kind, 3), jax.ShapeDtypeStruct((rows, 6), jnp.float32)).shape == (
        rows,
        numbers,
    )


def test_softmax_keeps_the_layer_and_its_draws():
    plain = Linear(6, 4, rngs=nnx.Rngs(0))
    assert last_layer("softmax", plain, 4, rngs=nnx.Rngs(1)) is plain


def test_the_head_of_the_config_is_the_networks():
    params = Network(build(ModelSection("tiny", head="coral"), "tiny", 3, seed=0)).init()[0]
    assert params["head/fc/kernel"].shape == (8, 1) and params["head/fc/gaps"].shape == (1,)


@pytest.mark.parametrize(
    "head, loss", [("coral", "coral"), pytest.param("corn", "cross_entropy", marks=pytest.mark.slow)]
)
def test_an_ordinal_run_is_validated_restored_and_answers_as_any_other(quick, tmp_path, head, loss):
    quick.model.head, quick.loss.name, quick.preset, quick.epochs = head, loss, "head", 1.0
    train(quick, tmp_path)
    run = open_run(tmp_path)
    logits = run.logits(run.dataset().source("test"))
    assert logits.shape == (11, len(small.CLASSES))
    np.testing.assert_allclose(np.exp(logits).sum(-1), 1, rtol=1e-4)
