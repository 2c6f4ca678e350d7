"""Optimizer, loss, augmentation and mesh, each against something computed otherwise."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from osteojax import config as configs
from osteojax.devices.mesh import make_mesh, state_sharding
from osteojax.errors import UserError
from osteojax.train import augment
from osteojax.train.experiment import OptimizerSection
from osteojax.train.losses.registry import LOSSES
from osteojax.train.optimizer import make_optimizer, make_schedule
from osteojax.train.parameter_groups import ParameterGroup


def optimizer_config(**changes):
    config = configs.load("configs/train/paper_resnet50.py").optimizer
    return configs.read(OptimizerSection, config.to_dict() | changes, "optimizer")


def test_one_group_is_optax_adamw():
    config = optimizer_config(
        learning_rate=1e-2, weight_decay=0.1, clip_norm=0.5, schedule="cosine", warmup_steps=3
    )
    schedule = make_schedule(config, 10)
    params = {"a/kernel": jnp.arange(6.0).reshape(2, 3), "a/bias": jnp.ones(3)}
    ours = make_optimizer(config, (ParameterGroup("all", ".*"),), dict.fromkeys(params, "all"), schedule, 0)
    theirs = optax.chain(
        optax.clip_by_global_norm(0.5),
        optax.adamw(
            optax.warmup_cosine_decay_schedule(0.0, 1e-2, 3, 10),
            weight_decay=0.1,
            mask={"a/kernel": True, "a/bias": False},
        ),
    )
    mine, state, other = params, ours.init(params), theirs.init(params)
    for step in range(10):
        gradient = jax.tree.map(lambda p, step=step: jnp.sin(p * 7 + step), mine)
        updates, state = ours.update(gradient, state, mine, step=step)
        expected, other = theirs.update(gradient, other, mine)
        for name in params:
            np.testing.assert_allclose(updates[name], expected[name], rtol=1e-5, atol=1e-9)
        mine = optax.apply_updates(mine, updates)


def test_groups_have_their_own_rate_and_decay():
    config = optimizer_config(name="sgd", momentum=0.0, learning_rate=1.0, schedule="constant", clip_norm=0.0)
    groups = (
        ParameterGroup("fast", "f/.*", lr_factor=2.0, weight_decay=0.5),
        ParameterGroup("slow", "s/.*", lr_factor=0.1, weight_decay=0.0),
    )
    params = {"f/kernel": jnp.ones((2, 2)), "s/kernel": jnp.ones((2, 2))}
    optimizer = make_optimizer(
        config, groups, dict(zip(params, ("fast", "slow"), strict=True)), make_schedule(config, 5), 0
    )
    updates, _ = optimizer.update(jax.tree.map(jnp.ones_like, params), optimizer.init(params), params, step=0)
    np.testing.assert_allclose(updates["f/kernel"], -2.0 * (1 + 0.5))
    np.testing.assert_allclose(updates["s/kernel"], -0.1, rtol=1e-6)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"schedule": "zigzag"}, "no schedule 'zigzag'; there are constant, cosine"),
        ({"warmup_steps": 10}, "optimizer.warmup_steps=10"),
        ({"name": "shampoo"}, "no optimizer 'shampoo'; there are adam, adamw"),
        ({"settings": {"b3": 0.5}}, "optimizer.settings.b3"),
        ({"schedule_settings": {"power": 2}}, "optimizer.schedule_settings.power"),
        ({"schedule": "plateau", "schedule_settings": {"factor": 1.0}}, "optimizer.schedule_settings.factor"),
        ({"schedule": "one_cycle", "schedule_settings": {"rise": 0.01}}, "cannot rise in 0.01 of 10 steps"),
    ],
)
def test_impossible_optimizers_are_clear_errors(changes, message):
    config = optimizer_config(**changes)
    with pytest.raises(UserError, match=message):
        make_optimizer(config, (ParameterGroup("a", ".*"),), {"x": "a"}, make_schedule(config, 10), 0)


def test_cross_entropy_with_smoothing_by_hand():
    logits = jnp.log(jnp.array([[0.7, 0.2, 0.1]]))
    loss = LOSSES.bind("cross_entropy", {"label_smoothing": 0.3}, {}, "loss.settings")
    found = loss(logits, jnp.array([0]))
    expected = -(0.8 * np.log(0.7) + 0.1 * np.log(0.2) + 0.1 * np.log(0.1))
    np.testing.assert_allclose(found, [expected], rtol=1e-6)


def settings(**changes):
    return augment.chain({"flip": False, "rotate": 0.0, "shift": 0.0, "gain": 0.0} | changes)


IMAGES = np.random.default_rng(0).random((6, 16, 12, 1)).astype(np.float32)


def test_without_augmentation_pixels_are_untouched():
    image = jnp.asarray(IMAGES)
    assert augment.apply(jax.random.key(0), image, settings()) is image


def test_flip_mirrors_some_rows_and_leaves_the_others():
    found = np.asarray(augment.apply(jax.random.key(3), jnp.asarray(IMAGES), settings(flip=True)))
    same = [(a == b).all() for a, b in zip(found, IMAGES, strict=True)]
    mirrored = [(a == b[:, ::-1]).all() for a, b in zip(found, IMAGES, strict=True)]
    assert all(np.logical_xor(same, mirrored)) and any(same) and any(mirrored)


def test_augmentation_does_not_depend_on_the_number_of_rows():
    config = settings(flip=True, rotate=10.0, shift=0.1, gain=0.1)
    all_rows = augment.apply(jax.random.key(1), jnp.asarray(IMAGES), config)
    some_rows = augment.apply(jax.random.key(1), jnp.asarray(IMAGES[:2]), config)
    np.testing.assert_allclose(all_rows[:2], some_rows, atol=1e-6)
    assert all_rows.min() >= 0 and all_rows.max() <= 1


def test_large_arrays_are_split_and_small_ones_are_not():
    tree = {
        "large": jax.ShapeDtypeStruct((3, 256, 128), np.float32),
        "small": jax.ShapeDtypeStruct((4,), np.float32),
    }
    placed = state_sharding(make_mesh(2, 4), tree)
    assert placed["large"].spec == PartitionSpec(None, "fsdp", None)
    assert placed["small"].spec == PartitionSpec()
