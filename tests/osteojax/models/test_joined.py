"""Last layers with a patient's columns, and with a T-score, against their formulas and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small  # noqa: F401  registers "tiny"
from flax import nnx
from scipy.stats import norm

from osteojax.baselines.classifiers.thresholded import Thresholds
from osteojax.models.build import ModelSection, build, build_shapes
from osteojax.models.layers.joined import EMBEDDED
from osteojax.models.layers.t_score import WHO, ReadFromTScore, TScore, log_shares
from osteojax.models.network import Network
from osteojax.train.t_score import negative_log_likelihood

# Pooled, as the head of "tiny" takes them.
FEATURES = jnp.asarray(np.random.default_rng(0).random((3, 8), np.float32))
COLUMNS = jnp.asarray([[1.0, 0.5, 0, 0], [-2.0, 0.0, 0, 1], [0.0, 0.0, 1, 1]])
SECTION = {"conv_impl": "native", "covariates": ("age", "bmi")}


def network(**model):
    section = ModelSection("tiny", **SECTION | model)
    return Network(build(section, "tiny", 3, seed=0, inputs=4 if section.covariates else 0))


def test_columns_join_the_pooled_features_before_the_last_layer():
    found = network()
    params, stats = found.init()
    answer = found.eval_function("head")
    output = answer(params, stats, FEATURES, COLUMNS)
    p = {path.removeprefix("head/fc/"): np.asarray(x) for path, x in params.items()}
    relu = lambda y: np.maximum(y, 0)  # noqa: E731
    embedded = relu(np.asarray(COLUMNS) @ p["first/kernel"] + p["first/bias"])
    embedded = relu(embedded @ p["second/kernel"] + p["second/bias"])
    both = np.concatenate([FEATURES, embedded], -1)
    np.testing.assert_allclose(output, both @ p["last/kernel"] + p["last/bias"], rtol=1e-4, atol=1e-5)
    assert p["last/kernel"].shape == (8 + EMBEDDED, 3)
    # What training never saw to be unknown counts as the mean.
    assert not p["first/kernel"][2:].any() and p["first/kernel"][:2].all()
    np.testing.assert_allclose(output[2], answer(params, stats, FEATURES, 0 * COLUMNS)[2], rtol=1e-5)


def test_a_network_with_columns_does_not_answer_without_and_others_are_as_before():
    found = network()
    with pytest.raises(ValueError, match="takes a patient's columns beside the image, and got none"):
        found.eval_function("head")(*found.init(), FEATURES)
    with pytest.raises(ValueError, match="as 0 numbers"):
        build(ModelSection("tiny", **SECTION), "tiny", 3, seed=0)
    plain, with_score = network(covariates=()), network(covariates=(), t_score="t")
    assert plain.init()[0].keys() < {path.replace("/last/", "/") for path in with_score.init()[0]}
    assert not plain.takes_columns and not plain.gives_t_score and plain.t_scores(jnp.zeros((2, 3))) is None


@pytest.mark.parametrize("head", ["softmax", "coral", "t_score"])
def test_a_t_score_stands_behind_the_logits_of_any_head(head):
    found = network(head=head, t_score="t", dropout=0.5)
    params, stats = found.init()
    output = found.output_function("head")(params, stats, FEATURES, COLUMNS)
    assert output.shape == (3, 5) and found.class_logits(output).shape == (3, 3)
    np.testing.assert_array_equal(found.t_scores(output), output[:, 3])
    np.testing.assert_array_equal(output[:, 4], 0)  # log sigma at the start
    logits = found.eval_function("head")(params, stats, FEATURES, COLUMNS)
    np.testing.assert_array_equal(logits, output[:, :3])
    # In training the layer's dropout is at work, of the T-score too.
    apply = found.train_function(set(params), "head")
    one, other = (
        apply(params, stats, FEATURES, jnp.ones(3), jax.random.key(k), COLUMNS)[0][:, 3] for k in (0, 1)
    )
    assert (one != other).any()


def test_what_explains_a_network_sees_its_class_logits_alone():
    found = network(covariates=(), t_score="t")
    logits = found.cut("pool").from_features(*found.init(), FEATURES)
    np.testing.assert_array_equal(logits, found.eval_function("head")(*found.init(), FEATURES))
    assert logits.shape == (3, 3)


def test_shares_between_the_limits_are_those_of_the_normal_distribution():
    t, sigma = np.asarray([-4.0, -2.5, -1.7, -1.0, 0.3, 2.0]), np.asarray([0.5, 1.0, 2.0, 0.8, 1.3, 0.6])
    above = norm.sf(np.asarray(WHO), t[:, None], sigma[:, None])
    expected = np.stack([above[:, 0], above[:, 1] - above[:, 0], 1 - above[:, 1]], -1)
    found = np.asarray(log_shares(jnp.asarray(t, jnp.float32), jnp.asarray(np.log(sigma), jnp.float32)))
    np.testing.assert_allclose(np.exp(found), expected, rtol=2e-5, atol=1e-7)
    assert Thresholds().thresholds == WHO


def test_shares_and_their_gradients_are_finite_far_from_the_limits():
    t, log_sigma = jnp.asarray([-30.0, -1.75, 30.0, 9.0]), jnp.asarray([-1.0, -3.0, -1.0, 0.0])
    found = np.asarray(log_shares(t, log_sigma))
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found.argmax(-1), [2, 1, 0, 0])
    np.testing.assert_allclose(
        found[3, 1], norm.logsf(10) + np.log1p(-np.exp(norm.logsf(11.5) - norm.logsf(10))), rtol=1e-5
    )
    gradients = jax.grad(lambda t, s: log_shares(t, s).sum(), (0, 1))(t, log_sigma)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_the_class_is_read_where_the_score_lies():
    layer = ReadFromTScore(1, rngs=nnx.Rngs(0))
    layer.kernel[...], layer.bias[...] = jnp.ones((1, 1)), jnp.zeros(1)
    layer.log_sigma[...] = jnp.asarray(-3.0)
    t = np.asarray([[0.5], [-0.95], [-1.05], [-2.4], [-2.6], [-4.0]], np.float32)
    assert layer(jnp.asarray(t))[:, :3].argmax(-1).tolist() == [0, 0, 1, 1, 2, 2]


def test_the_loss_is_a_normal_likelihood_and_leaves_missing_scores_out():
    t, sigma = np.asarray([-1.2, 0.4, -3.0], np.float32), 0.7
    output = jnp.stack([jnp.zeros(3), jnp.asarray(t), jnp.full(3, np.log(sigma))], -1)
    score = jnp.asarray([-2.0, np.nan, -2.5])
    found = negative_log_likelihood(output, score)
    expected = -norm.logpdf(np.asarray(score), t, sigma) - np.log(2 * np.pi) / 2
    np.testing.assert_allclose(np.asarray(found)[[0, 2]], expected[[0, 2]], rtol=1e-5)
    assert found[1] == 0
    gradient = jax.grad(lambda output: negative_log_likelihood(output, score).sum())(output)
    assert np.isfinite(gradient).all() and not gradient[1].any() and gradient[0, 1:].all()
    assert isinstance(ReadFromTScore(2, rngs=nnx.Rngs(0)), TScore)


@pytest.mark.parametrize(
    "arch",
    [
        "vit_small_patch16",
        *(pytest.param(arch, marks=pytest.mark.slow) for arch in ("mobilenet_v3_large", "convnext_tiny")),
    ],
)
def test_any_architecture_joins_behind_its_own_head(arch):
    section = ModelSection(arch, covariates=("age",), t_score="t")
    found = Network(build_shapes(section, arch, 3, inputs=2))
    image, clinical = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((2, 64, 64, 1), (2, 2)))
    output = jax.eval_shape(found.output_function(), *found.init(), image, clinical)
    assert output.shape == (2, 5) and found.takes_columns and found.gives_t_score
    plain = Network(build_shapes(ModelSection(arch), arch, 3)).init()[0]
    assert {path for path in plain if not path.startswith("head/fc/")} < found.init()[0].keys()
