"""One train step and what a run records, against plain numpy and optax."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small
from scipy.special import log_softmax

from osteojax.data.dataset import PreparedDataset
from osteojax.errors import UserError
from osteojax.models.build import build
from osteojax.models.network import Network
from osteojax.run.best import BestSoFar
from osteojax.run.checkpoint import Checkpoints
from osteojax.run.open import open_run
from osteojax.train import augment
from osteojax.train.experiment import OptimizerSection, read_experiment
from osteojax.train.loop import train
from osteojax.train.optimizer import make_optimizer, make_schedule
from osteojax.train.parameter_groups import ParameterGroup
from osteojax.train.step import Recipe, make_train_step

GROUPS = (
    {"name": "head", "pattern": "head/.*", "lr_factor": 2.0},
    {"name": "stage4", "pattern": "stage4/.*", "lr_factor": 0.5},
    {"name": "rest", "pattern": ".*", "frozen": True},
)
WEIGHTS = (0.5, 1.0, 3.0)
SMOOTHING = 0.2


def recipe_of(config, total_steps=10):
    experiment = read_experiment(config)
    network = Network(build(experiment.model, "tiny", 3, seed=0))
    recipe = Recipe.of(experiment, network, total_steps, (1,) * 3)
    return dataclasses.replace(recipe, class_weights=WEIGHTS)


@pytest.fixture(scope="module")
def one_step(prepared):
    """A step on five rows, of which two are padding with a label and an image that would be noticed."""
    config = small.quick_config(prepared)
    config.groups = GROUPS
    config.loss.label_smoothing = SMOOTHING
    config.optimizer.update(name="sgd", momentum=0.0, clip_norm=0.05, learning_rate=0.1, weight_decay=0.0)
    config.optimizer.update(schedule="cosine", warmup_steps=4)
    recipe = recipe_of(config)
    rng = np.random.default_rng(0)
    batch = {
        "image": jnp.asarray(rng.random((5, 32, 32, 1)), jnp.float32),
        "label": jnp.asarray([0, 2, 1, 2, 0]),
        "mask": jnp.asarray([1.0, 1.0, 1.0, 0.0, 0.0]),
    }
    state = recipe.init_state(*recipe.network.init())
    state.step = jnp.int32(2)
    after, metrics = jax.jit(make_train_step(recipe, 2))(state, batch)
    return recipe, state, batch, after, metrics


def expected_loss(logits, label, mask):
    """By loops."""
    total = weight = 0.0
    for row in range(len(label)):
        if mask[row]:
            target = np.full(3, SMOOTHING / 3) + (1 - SMOOTHING) * np.eye(3)[label[row]]
            total += WEIGHTS[label[row]] * -(target * log_softmax(logits[row].astype(np.float64))).sum()
            weight += WEIGHTS[label[row]]
    return total / weight


def by_hand(one_step):
    """Logits and gradient of the learning parameters, through jax alone."""
    recipe, state, batch, *_ = one_step
    learning = {p for p, g in recipe.labels.items() if g != "rest"}
    apply = recipe.network.train_function(learning)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(0), 2))

    def loss(learned):
        logits, _ = apply(state.params | learned, state.batch_stats, batch["image"], batch["mask"], keys[1])
        weight = batch["mask"] * jnp.asarray(WEIGHTS)[batch["label"]]
        target = (1 - SMOOTHING) * jnp.eye(3)[batch["label"]] + SMOOTHING / 3
        return (-(target * jax.nn.log_softmax(logits)).sum(-1) * weight).sum() / weight.sum(), logits

    learned = {path: state.params[path] for path in learning}
    (_, logits), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(learned)
    return np.asarray(logits), gradient


def test_loss_and_accuracy_leave_padding_out_and_weigh_the_classes(one_step):
    *_, batch, _, metrics = one_step
    logits, _ = by_hand(one_step)
    label, mask = np.asarray(batch["label"]), np.asarray(batch["mask"])
    assert float(metrics["loss"]) == pytest.approx(expected_loss(logits, label, mask), rel=1e-5)
    assert float(metrics["accuracy"]) == pytest.approx((logits.argmax(-1) == label)[:3].mean())
    assert float(metrics["loss"]) != pytest.approx(expected_loss(logits, label, np.ones(5)), rel=1e-3)


def test_norms_and_rates_are_those_of_their_groups(one_step):
    recipe, *_, metrics = one_step
    _, gradient = by_hand(one_step)
    rate = 0.1 * 2 / 4  # step 2 of a warm-up of four
    total = np.sqrt(sum(float((g**2).sum()) for g in gradient.values()))
    assert total > 0.05, "the clip must bite"
    for name, factor in (("head", 2.0), ("stage4", 0.5)):
        mine = [g for path, g in gradient.items() if recipe.labels[path] == name]
        norm = np.sqrt(sum(float((g**2).sum()) for g in mine))
        assert float(metrics[f"gradient_norm/{name}"]) == pytest.approx(norm, rel=1e-4)
        assert float(metrics[f"learning_rate/{name}"]) == pytest.approx(rate * factor, rel=1e-5)
        assert float(metrics[f"update_norm/{name}"]) == pytest.approx(
            rate * factor * norm * 0.05 / total, rel=1e-4
        )
    assert "gradient_norm/rest" not in metrics


def test_the_clip_is_by_the_norm_over_all_groups(one_step):
    _, state, _, after, _ = one_step
    _, gradient = by_hand(one_step)
    total = np.sqrt(sum(float((g**2).sum()) for g in gradient.values()))
    for path, g in gradient.items():
        factor = 2.0 if path.startswith("head/") else 0.5
        step = np.asarray(after.params[path], np.float64) - np.asarray(state.params[path], np.float64)
        np.testing.assert_allclose(
            step, -0.05 * factor * g * 0.05 / total, rtol=2e-2, atol=1.2e-7, err_msg=path
        )


def test_a_frozen_negative_zero_keeps_its_sign(one_step):
    """-0.0 + 0.0 is 0.0: frozen values are passed on, not added to."""
    recipe, state, batch, *_ = one_step
    path = next(path for path, group in recipe.labels.items() if group == "rest" and path.endswith("kernel"))
    params = {**state.params, path: jnp.full_like(state.params[path], -0.0)}
    before = dataclasses.replace(state, params=params)
    after, _ = jax.jit(make_train_step(recipe, 2))(before, batch)
    assert np.signbit(after.params[path]).all()


@pytest.mark.parametrize(
    "name, changes, theirs",
    [
        ("adamw", {"b1": 0.7, "b2": 0.95, "eps": 1e-3}, optax.scale_by_adam(b1=0.7, b2=0.95, eps=1e-3)),
        ("sgd", {"momentum": 0.6}, optax.trace(0.6)),
        ("sgd", {"momentum": 0.6, "nesterov": True}, optax.trace(0.6, nesterov=True)),
    ],
)
def test_settings_reach_the_optimizer(name, changes, theirs):
    section = OptimizerSection(
        name=name, learning_rate=1.0, schedule="constant", weight_decay=0.0, clip_norm=0.0, **changes
    )
    ours = make_optimizer(section, (ParameterGroup("a", ".*"),), {"x": "a"}, make_schedule(section, 9), 0)
    params = {"x": jnp.arange(6.0).reshape(2, 3)}
    state, other = ours.init(params), theirs.init(params)
    for step in range(5):
        gradient = {"x": jnp.sin(params["x"] + step)}
        updates, state = ours.update(gradient, state, params, step=step)
        expected, other = theirs.update(gradient, other, params)
        np.testing.assert_allclose(updates["x"], -expected["x"], rtol=1e-5)


def test_the_schedule_of_a_run_ends_at_its_last_step(prepared, tmp_path):
    config = small.quick_config(prepared)
    config.optimizer.update(schedule="cosine", warmup_steps=2, learning_rate=1e-3)
    config.log_every = 1
    train(config, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    rates = [line["train/learning_rate/head"] for line in lines if "train/loss" in line]
    expected = [0.0, 0.5, *(0.5 * (1 + np.cos(np.pi * t / 4)) for t in range(4))]
    np.testing.assert_allclose(rates, 1e-3 * np.asarray(expected), rtol=1e-5, atol=1e-12)
    assert [line["epoch"] for line in lines if "train/loss" in line] == pytest.approx(
        [k / 3 for k in range(1, 7)]
    )


def test_augmentation_differs_from_step_to_step_and_from_seed_to_seed(prepared, monkeypatch):
    class Seen(Exception):
        pass

    def stop(key, image, chain):
        raise Seen(jax.random.key_data(key).tolist())

    monkeypatch.setattr(augment, "apply", stop)
    config = small.quick_config(prepared)
    batch = {"image": jnp.ones((2, 32, 32, 1)), "label": jnp.array([0, 1]), "mask": jnp.ones(2)}
    found = []
    for seed in (0, 1):
        config.seed = seed
        recipe = recipe_of(config)
        state = recipe.init_state(*recipe.network.init())
        for step in range(3):
            state.step = jnp.int32(step)
            with pytest.raises(Seen) as seen:
                make_train_step(recipe, 0)(state, batch)
            found.append(tuple(seen.value.args[0]))
            of_step = jax.random.fold_in(jax.random.key(seed), step)
            assert found[-1] == tuple(jax.random.key_data(jax.random.split(of_step)[0]).tolist())
    assert len(set(found)) == 6


def test_validation_is_of_the_average_and_is_what_evaluation_finds(prepared, tmp_path):
    config = small.quick_config(prepared)
    config.optimizer.update(ema_decay=0.5, learning_rate=1e-2)
    train(config, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    noted = next(line for line in lines if line["step"] == 6 and "val/cross_entropy" in line)
    run = open_run(tmp_path, 6)
    source = run.dataset().source("val")
    logits, labels = run.logits(source), np.asarray([example["label"] for example in source])
    expected = -log_softmax(logits.astype(np.float64), axis=-1)[np.arange(7), labels].mean()
    assert noted["val/cross_entropy"] == pytest.approx(expected, rel=1e-5)
    assert noted["val/accuracy"] == pytest.approx((logits.argmax(-1) == labels).mean())


@pytest.mark.parametrize("mode", ["max", pytest.param("min", marks=pytest.mark.slow)])
def test_the_mode_decides_which_checkpoint_is_the_best(quick, tmp_path, mode, caplog):
    quick.best.update(metric="cross_entropy", mode=mode)
    quick.epochs = 4.0
    quick.checkpoint.keep = 1
    train(quick, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    values = {line["step"]: line["val/cross_entropy"] for line in lines if "val/cross_entropy" in line}
    best = (max if mode == "max" else min)(values, key=lambda step: values[step])
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.best_step() == best and set(checkpoints.steps()) == {best, 12}
    checkpoints.close()
    assert ("smaller" in caplog.text) == (mode == "max")


def test_best_and_patience_outlive_a_restart(quick, tmp_path):
    """Learning rate zero: nothing improves, and patience is counted over both starts."""
    quick.update(preset="head", epochs=20.0)
    quick.optimizer.learning_rate = 0.0
    quick.best.patience = 4
    first = quick.copy_and_resolve_references()
    first.epochs = 2.0
    train(first, tmp_path)
    train(quick, tmp_path, force=True)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    record = checkpoints.record(checkpoints.steps()[-1])
    checkpoints.close()
    assert record["step"] == 15 and record["best"]["best_step"] == 3 and record["best"]["stale"] == 4


def test_of_equals_the_first_is_the_best_and_patience_counts_from_it():
    best = BestSoFar("accuracy", "max", 2)
    for step, value in ((1, 0.5), (2, 0.5), (3, 0.6), (4, 0.6)):
        best.update(step, {"accuracy": value})
    assert (best.best_step, best.stale, best.exhausted) == (3, 1, False)
    best.update(5, {"accuracy": 0.1})
    assert best.exhausted


def test_class_names_of_another_order_are_refused(prepared, tmp_path):
    config = small.quick_config(prepared)
    config.epochs = 1.0
    train(config, tmp_path / "run")
    other = tmp_path / "data"
    shutil.copytree(prepared, other)
    names = other / "label.labels.txt"
    names.write_text("\n".join(reversed(names.read_text().splitlines())) + "\n")
    assert PreparedDataset.open(other).class_names == tuple(reversed(small.CLASSES))
    with pytest.raises(UserError, match="has classes"):
        open_run(tmp_path / "run").dataset(other)
