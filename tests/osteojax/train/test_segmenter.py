"""The loss of a segmenter against numbers worked out by hand, and its training as a command."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from osteojax.train.segmenter import SegmenterSettings, make_optimizer, segmentation_loss

KEY = jax.random.key(0)


def loss(logits, label, **more):
    batch = {"image": jnp.zeros((*np.shape(label), 1)), "label": jnp.asarray(label)}
    return float(segmentation_loss(lambda image: jnp.asarray(logits, jnp.float32), batch, KEY, **more))


def test_two_pixels_by_hand():
    # p = (0.5, 0.25, 0.25) and (0.1, 0.8, 0.1); the truth is 1 and 2.
    p = np.array([[[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]]])
    entropy = -(np.log(0.25) + np.log(0.1)) / 2
    of_1 = 2 * 0.25 / (0.25**2 + 0.8**2 + 1)
    of_2 = 2 * 0.1 / (0.25**2 + 0.1**2 + 1)
    assert loss(np.log(p), [[[1, 2]]]) == pytest.approx(entropy + 1 - (of_1 + of_2) / 2, rel=1e-5)
    little = loss(np.log(p), [[[1, 2]]], dice=0.2)
    assert little == pytest.approx(entropy + 0.2 * (1 - (of_1 + of_2) / 2), rel=1e-5)


def test_a_perfect_answer_costs_nothing_and_the_background_has_no_dice():
    label = np.array([[[0, 1], [2, 2]]])
    assert loss(50 * np.eye(3)[label], label) == pytest.approx(0, abs=1e-5)


def test_the_learning_rate_warms_up_and_vectors_do_not_decay():
    settings = SegmenterSettings(steps=4, warmup_steps=2, learning_rate=0.1, weight_decay=0.5)
    optimizer = make_optimizer(settings)
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    state = optimizer.init(params)
    zero = jax.tree.map(jnp.zeros_like, params)
    moved = []
    for _ in range(4):
        updates, state = optimizer.update(zero, state, params)
        moved.append(-float(updates["kernel"][0, 0]))
        assert not updates["bias"].any()
    np.testing.assert_allclose(moved, 0.5 * np.array([0, 0.05, 0.1, 0.05]), rtol=1e-5, atol=1e-8)
