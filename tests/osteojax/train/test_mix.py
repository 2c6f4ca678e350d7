"""Mixup and CutMix: who is mixed with whom, by how much, and what the loss makes of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, kstest

from osteojax.train.mix import MixSection, mix

RNG = np.random.default_rng(0)
IMAGES = jnp.asarray(RNG.random((6, 8, 8, 1)), jnp.float32)
MASK = jnp.array([1.0, 1.0, 0.0, 1.0, 1.0, 0.0])
both = jax.jit(mix, static_argnums=3)


def mixed(section, rows=6, seed=0, images=IMAGES, mask=MASK):
    return [np.asarray(x) for x in both(jax.random.key(seed), images[:rows], mask[:rows], section)]


def test_mixup_is_its_formula():
    image, partner, share = mixed(MixSection(mixup=1.0))
    s = share[:, None, None, None]
    np.testing.assert_allclose(image, s * IMAGES + (1 - s) * IMAGES[partner], rtol=1e-5)
    assert len(set(share[MASK > 0].tolist())) == 4


def test_cutmix_pastes_one_rectangle_and_its_share_is_that_of_the_pixels():
    images = jnp.broadcast_to(jnp.arange(1.0, 31)[:, None, None, None], (30, 16, 16, 1))
    image, partner, share = mixed(MixSection(cutmix=1.0), 30, images=images, mask=jnp.ones(30))
    for row in range(30):
        pasted = image[row, ..., 0] == partner[row] + 1
        assert (image[row, ..., 0][~pasted] == row + 1).all()
        rows, columns = pasted.any(1), pasted.any(0)
        assert (pasted == np.outer(rows, columns)).all()
        assert share[row] == pytest.approx(1 - pasted.mean())
    assert 0.3 < share.mean() < 0.9


@given(st.lists(st.booleans(), min_size=1, max_size=6), st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_partners_are_a_permutation_of_the_real_rows_and_padding_is_left_alone(real, seed):
    padded = np.array([*real, *[False] * (6 - len(real))])
    image, partner, share = mixed(
        MixSection(mixup=0.4, cutmix=1.0), seed=seed, mask=jnp.asarray(padded, jnp.float32)
    )
    places = np.flatnonzero(padded)
    assert sorted(partner[places]) == sorted(places)
    alone = ~padded if padded.sum() > 1 else np.ones(6, bool)
    assert (partner[alone] == np.flatnonzero(alone)).all() and (share[alone] == 1).all()
    np.testing.assert_array_equal(image[alone], IMAGES[alone])
    if padded.sum() > 1:
        assert (partner[places] != places).all()


def test_padding_rows_and_the_step_change_what_they_may():
    few, many = mixed(MixSection(mixup=0.4), 5), mixed(MixSection(mixup=0.4), 6)
    for a, b in zip(few, many, strict=True):
        np.testing.assert_array_equal(a, b[:5])
    assert (mixed(MixSection(mixup=0.4), seed=1)[2] != many[2]).any()


@pytest.mark.parametrize("alpha", [pytest.param(0.3, marks=pytest.mark.slow), 2.0])
def test_shares_are_of_the_beta_distribution(alpha):
    ones = jnp.ones(600)
    share = mixed(MixSection(mixup=alpha), 600, images=jnp.zeros((600, 2, 2, 1)), mask=ones)[2]
    assert kstest(share, beta(alpha, alpha).cdf).pvalue > 0.01


@pytest.mark.slow
def test_with_both_each_row_draws_which():
    images = jnp.broadcast_to(jnp.arange(100.0)[:, None, None, None], (100, 8, 8, 1))
    image, *_ = mixed(MixSection(mixup=5.0, cutmix=5.0), 100, images=images, mask=jnp.ones(100))
    flat = image.std((1, 2, 3)) < 1e-6
    assert 0.3 < flat.mean() < 0.7
