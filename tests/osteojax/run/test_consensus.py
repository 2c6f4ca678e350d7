"""Several networks as one: the mean, its own temperature, and sets that hold as often as they say."""

import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from ml_collections import ConfigDict
from scipy.special import softmax

from osteojax import folds
from osteojax.calibration.novelty import Novelty
from osteojax.calibration.temperature import fit_temperature
from osteojax.run.consensus import apart, calibrate, combined
from osteojax.run.fitted import Fitted

NOVELTY = Novelty(np.zeros((1, 1)), np.ones((1, 1)), np.ones(1), 1.0, np.zeros(2))


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(2, 4)),
               elements=st.floats(-200, 200, width=32))
)  # fmt: skip
def test_its_softmax_is_the_mean_of_the_softmaxes(views):
    found = softmax(combined(list(views)).astype(np.float64), axis=-1)
    np.testing.assert_allclose(
        found, softmax(views.astype(np.float64), axis=-1).mean(0), rtol=1e-6, atol=1e-12
    )


def test_a_single_view_keeps_its_bits():
    view = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    assert combined([view]) is view


def network(rng, truth, evidence, blur):
    """Logits of a network that sees the evidence through noise of its own, and is too sure of itself."""
    return (3 * (evidence + blur * rng.normal(size=(len(truth), 3)))).astype(np.float32)


def simulated(rng, n):
    """Labels, and logits of three networks and of their mirror images."""
    truth = rng.integers(0, 3, n)
    evidence = np.eye(3)[truth] * 1.5 + rng.normal(size=(n, 3))
    return truth, [network(rng, truth, evidence, 1.0) for _ in range(6)]


def fitted_on(truth, logits, mirrored):
    return Fitted(logits, truth, fit_temperature(logits, truth), NOVELTY, mirrored)


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_ensembles_own_temperature_and_sets_hold(mirrored):
    """Coverage by class on 300 fresh images, over 40 draws of validation, against the binomial error of that mean."""
    rng = np.random.default_rng(1)
    covered, alone, losses = [], [], []
    for _ in range(40):
        truth, views = simulated(rng, 240)
        members = [fitted_on(truth, views[i], views[3 + i]) for i in range(3)]
        known = calibrate(members, mirrored=mirrored)
        used = views if mirrored else views[:3]
        assert known.temperature == pytest.approx(fit_temperature(combined(used), truth))
        fresh, seen = simulated(rng, 300)
        said = combined(seen if mirrored else seen[:3])
        p = known.probabilities(said)
        held = known.conformal.sets(p, "by_class")
        covered.append([held[fresh == c, c].mean() for c in range(3)])
        # What there was before: sets of one network for the mean of all.
        mean = np.mean([m.probabilities(s) for m, s in zip(members, seen, strict=False)], axis=0)
        wrong = members[0].conformal.sets(mean, "by_class")
        alone.append(wrong[np.arange(300), fresh].mean())
        truly = np.arange(300), fresh
        losses.append([-np.log(p[truly]).mean(), -np.log(mean[truly]).mean()])
    # Split conformal: between 0.9 and 0.9 + 1 / (n + 1) on average, n about 80 of a class.
    assert np.all(np.abs(np.mean(covered, axis=0) - 0.905) < 0.02)
    assert abs(np.mean(alone) - 0.905) > 0.02
    assert np.mean(losses, axis=0)[0] < np.mean(losses, axis=0)[1]


def test_one_network_and_one_view_keep_what_was_fitted():
    truth, views = simulated(np.random.default_rng(2), 60)
    one = fitted_on(truth, views[0], None)
    assert calibrate([one]) is one


def opened(name, fingerprint="a", fold=-1, split="val"):
    config = ConfigDict({"eval": {"split": split}})
    record = {"dataset_fingerprint": fingerprint}
    return types.SimpleNamespace(workdir=name, record=record, config=config, tested=folds.Tested(fold))


@pytest.mark.parametrize(
    "other, reason",
    [
        ({}, None),
        ({"fingerprint": "b"}, "x and y were trained on different datasets"),
        ({"fold": 2}, "x and y are different folds: what one is validated on, the other learned from"),
        ({"split": "test"}, "x and y were validated on different splits"),
    ],
)
def test_runs_without_validation_images_in_common_are_told(other, reason):
    assert apart([opened("x"), opened("y", **other)]) == reason
