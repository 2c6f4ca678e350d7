"""Each loss and class weight against the formula of its paper, computed otherwise."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osteojax.data.dataset import PreparedDataset
from osteojax.data.memory import InMemory
from osteojax.errors import UserError
from osteojax.models.build import build
from osteojax.models.network import Network
from osteojax.train.class_weights import class_counts, class_weights
from osteojax.train.experiment import LossSection, check, read_experiment
from osteojax.train.losses.registry import LOSSES
from osteojax.train.step import Recipe

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(12, 4)).astype(np.float32) * 2
LABEL = RNG.integers(0, 4, 12)
P = np.exp(LOGITS.astype(np.float64))
P /= P.sum(-1, keepdims=True)


def loss(name, common=None, **own):
    bound = LOSSES.bind(name, common or {}, own, "loss.settings")
    return lambda logits, label: bound(jnp.asarray(logits), jnp.asarray(label))


def source(*labels):
    return InMemory(np.zeros((len(labels), 1)), np.asarray(labels, np.int32))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_is_lins_formula(gamma):
    p = P[np.arange(12), LABEL]
    found = loss("focal", gamma=gamma)(LOGITS, LABEL)
    np.testing.assert_allclose(found, -((1 - p) ** gamma) * np.log(p), rtol=1e-5)


def test_focals_gradient_is_finite_where_the_answer_is_sure():
    gradient = jax.grad(lambda x: loss("focal", gamma=0.5)(x, jnp.array([0])).sum())(
        jnp.array([[90.0, 0.0, 0.0]])
    )
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("tau", [1.0, 0.5])
def test_logit_adjustment_is_menons_pairwise_form(tau):
    """Equation 10 in its second form: log(1 + sum over y' != y of (pi_y' / pi_y)^tau exp(f_y' - f_y))."""
    prior = np.array([40, 30, 20, 10]) / 100
    expected = [
        np.log1p(
            sum((prior[k] / prior[y]) ** tau * np.exp(float(f[k]) - float(f[y])) for k in range(4) if k != y)
        )
        for f, y in zip(LOGITS, LABEL, strict=True)
    ]
    bound = loss("logit_adjustment", {"class_counts": (40, 30, 20, 10)}, tau=tau)
    np.testing.assert_allclose(bound(LOGITS, LABEL), expected, rtol=1e-4)


def test_logit_adjustment_of_equal_classes_is_cross_entropy_with_its_smoothing():
    common = {"label_smoothing": 0.2, "class_counts": (7, 7, 7, 7)}
    expected = loss("cross_entropy", common)(LOGITS, LABEL)
    np.testing.assert_allclose(loss("logit_adjustment", common)(LOGITS, LABEL), expected, rtol=1e-5)


def test_counts_of_other_classes_are_refused():
    with pytest.raises(UserError, match="class_counts has 3 counts for 4 classes"):
        loss("logit_adjustment", class_counts=(1, 2, 3))(LOGITS, LABEL)


def test_squared_emd_is_the_ranked_probability_score():
    expected = [
        sum((sum(p[: k + 1]) - (y <= k)) ** 2 for k in range(4)) for p, y in zip(P, LABEL, strict=True)
    ]
    np.testing.assert_allclose(loss("squared_emd")(LOGITS, LABEL), expected, rtol=1e-4, atol=1e-6)


def test_squared_emd_and_coral_dislike_a_far_mistake_more():
    sure = jnp.log(jnp.array([[0.9, 0.05, 0.05], [0.9, 0.05, 0.05]]))
    for name in ("squared_emd", "coral"):
        near, far = loss(name)(sure, jnp.array([1, 2]))
        assert far > near + 0.5


def test_coral_is_the_sum_of_its_binary_cross_entropies():
    """Of the raw threshold logits, by optax: what the class log-probabilities of the last layer stand for."""
    raw = np.sort(RNG.normal(size=(12, 3)), -1)[:, ::-1].astype(np.float32)
    above = 1 / (1 + np.exp(-raw))
    edges = np.concatenate([np.ones((12, 1)), above, np.zeros((12, 1))], -1)
    log_p = np.log(edges[:, :-1] - edges[:, 1:]).astype(np.float32)
    levels = (LABEL[:, None] > np.arange(3)).astype(np.float32)
    expected = optax.sigmoid_binary_cross_entropy(raw, levels).sum(-1)
    np.testing.assert_allclose(loss("coral")(log_p, LABEL), expected, rtol=1e-4)


def test_class_weights_are_inverse_to_the_frequency():
    counts = class_counts(LossSection(class_weights="balanced"), "abc", source(0, 0, 0, 0, 1, 1, 2, 0))
    assert counts == (5, 2, 1)
    assert class_weights(LossSection(class_weights="balanced"), counts) == pytest.approx(
        (8 / 15, 8 / 6, 8 / 3)
    )
    assert class_weights(LossSection(), counts) == (1.0, 1.0, 1.0)


def test_effective_weights_are_cuis():
    counts, beta = (1000, 100, 10), 0.99
    inverse = [(1 - beta) / (1 - beta**n) for n in counts]
    expected = [3 * w / sum(inverse) for w in inverse]
    section = LossSection(class_weights="effective", beta=beta)
    assert class_weights(section, counts) == pytest.approx(expected)


@given(st.lists(st.integers(1, 10**6), min_size=2, max_size=6))
@settings(max_examples=50, deadline=None)
def test_effective_weights_go_from_none_to_the_inverse_frequency(counts):
    at = lambda beta: class_weights(LossSection(class_weights="effective", beta=beta), counts)  # noqa: E731
    assert at(0.0) == pytest.approx([1.0] * len(counts))
    inverse = 1 / np.asarray(counts)
    assert at(1 - 1e-12) == pytest.approx(len(counts) * inverse / inverse.sum(), rel=1e-3)
    assert sum(at(0.999)) == pytest.approx(len(counts))


@pytest.mark.parametrize(
    "section, asking",
    [
        (LossSection(class_weights="effective"), "loss.class_weights='effective'"),
        (LossSection(name="logit_adjustment"), "loss.name='logit_adjustment'"),
    ],
)
def test_a_class_without_examples_is_an_error_only_where_counts_are_asked_for(section, asking):
    with pytest.raises(UserError, match=f"{asking} needs .* counts are \\[1, 0, 0\\]"):
        class_counts(section, "abc", source(0))
    assert class_counts(LossSection(), "abc", source(0)) == (1, 1, 1)


def test_the_counts_of_a_run_reach_its_loss(quick):
    quick.loss.name = "logit_adjustment"
    experiment = read_experiment(quick)
    network = Network(build(experiment.model, "tiny", 3, seed=0))
    logits, label = LOGITS[:, :3], LABEL % 3
    found = Recipe.of(experiment, network, 10, (5, 2, 1)).loss(jnp.asarray(logits), jnp.asarray(label))
    expected = loss("logit_adjustment", class_counts=(5, 2, 1))(logits, label)
    np.testing.assert_array_equal(found, expected)


def test_corals_loss_without_its_last_layer_is_refused(quick, prepared):
    quick.loss.name = "coral"
    with pytest.raises(UserError, match=r"loss.name='coral' with model.head='softmax'"):
        check(read_experiment(quick), PreparedDataset.open(prepared))
