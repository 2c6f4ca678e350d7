"""What every loss, optimizer, schedule and augmentation must do; a new member is covered without an edit here."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from osteojax.train import augment
from osteojax.train.augmentations.registry import AUGMENTATIONS
from osteojax.train.experiment import OptimizerSection
from osteojax.train.losses.registry import LOSSES
from osteojax.train.optimizer import make_optimizer, make_schedule
from osteojax.train.optimizers.registry import OPTIMIZERS
from osteojax.train.parameter_groups import ParameterGroup
from osteojax.train.schedules.registry import SCHEDULES

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_one_number_an_example_and_falls_towards_the_truth(name):
    loss = LOSSES.bind(name, {}, {}, "loss.settings")
    logits = jnp.asarray(RNG.normal(size=(9, 3)), jnp.float32)
    label = jnp.asarray(RNG.integers(0, 3, 9))
    found = jax.jit(loss)(logits, label)
    assert found.shape == (9,) and found.dtype == jnp.float32 and np.isfinite(found).all()
    np.testing.assert_allclose(loss(logits[2:5], label[2:5]), found[2:5], rtol=1e-5)
    gradient = jax.grad(lambda x: loss(x, label).sum())(logits)
    assert (loss(logits - 0.05 * gradient, label) < found).all()
    for extreme in (1e4, -1e4):
        assert np.isfinite(jax.grad(lambda x: loss(x, label).sum())(logits * extreme)).all()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_goes_downhill_and_holds_nothing_for_what_is_frozen(name):
    # LARS moves by a thousandth of a tensor's norm where others move by the whole, Muon by a fifth of AdamW's step.
    rate = {"lars": 5.0, "muon": 0.2}.get(name, 0.05)
    section = OptimizerSection(name=name, learning_rate=rate, schedule="constant", weight_decay=0.0)
    groups = (ParameterGroup("a", "a"), ParameterGroup("b", "b", frozen=True))
    labels = {"a": "a", "b": "b"}
    optimizer = make_optimizer(section, groups, labels, make_schedule(section, 100), 0)
    params = {
        "a": jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)), jnp.float32),
        "b": jnp.ones((5, 7)),
    }
    state = optimizer.init(params)
    assert not any(x.shape == (5, 7) for x in jax.tree.leaves(state))
    first = float((params["a"] ** 2).sum())
    for step in range(60):
        gradient = {"a": 2 * params["a"], "b": jnp.ones((5, 7))}
        updates, state = optimizer.update(gradient, state, params, step=step)
        assert not updates["b"].any()
        params = {"a": params["a"] + updates["a"], "b": params["b"]}
    assert float((params["a"] ** 2).sum()) < 0.25 * first


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("warmup", [0, 7])
def test_a_schedule_reaches_the_peak_and_never_exceeds_it_and_a_warm_up_leads_to_its_beginning(name, warmup):
    section = OptimizerSection(schedule=name, learning_rate=0.3, warmup_steps=warmup)
    schedule = make_schedule(section, 50)
    rates = np.asarray([schedule(step) for step in range(50)])
    assert np.isfinite(rates).all() and (rates >= 0).all() and rates.max() == pytest.approx(0.3)
    assert name == "one_cycle" or rates[warmup] == pytest.approx(0.3)
    np.testing.assert_allclose(rates[:warmup], rates[warmup] * np.arange(warmup) / max(warmup, 1), rtol=1e-5)


def switched_on(member):
    """Settings that do something: those of full magnitude, or every flag set and every number 0.1."""
    return member.strongest or {
        field.name: True if isinstance(field.default, bool) else 0.1
        for field in dataclasses.fields(member.settings)
    }


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_an_augmentation_is_random_repeatable_and_stays_within_the_range(name):
    chain = augment.chain(switched_on(AUGMENTATIONS.get(name)))
    image = jnp.asarray(RNG.random((16, 12, 10, 1)), jnp.float32)
    apply = jax.jit(lambda key, x: augment.apply(key, x, chain))
    found = apply(jax.random.key(0), image)
    assert found.shape == image.shape and found.dtype == jnp.float32
    assert np.isfinite(found).all() and found.min() >= 0 and found.max() <= 1
    np.testing.assert_array_equal(found, apply(jax.random.key(0), image))
    other = apply(jax.random.key(1), image)
    assert (found != other).any() and (found != image).any()
    same = jnp.broadcast_to(image[:1], image.shape)
    assert len({np.asarray(row).tobytes() for row in apply(jax.random.key(0), same)}) > 1
    assert augment.chain({}).members == ()
