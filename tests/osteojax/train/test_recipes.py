"""What the step makes of mixing, sharpness-aware minimisation and accumulation, against jax alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from scipy.special import log_softmax

from osteojax.errors import UserError
from osteojax.models.build import build
from osteojax.models.network import Network
from osteojax.train.experiment import read_experiment
from osteojax.train.mix import mix
from osteojax.train.step import Recipe, make_train_step

RNG = np.random.default_rng(0)
BATCH = {
    "image": jnp.asarray(RNG.random((6, 32, 32, 1)), jnp.float32),
    "label": jnp.asarray([0, 2, 1, 2, 0, 1]),
    "mask": jnp.asarray([1.0, 1.0, 1.0, 1.0, 1.0, 0.0]),
}
WEIGHTS = (0.5, 1.0, 3.0)


@pytest.fixture(scope="module")
def step_of(prepared):
    """A step of the head alone by plain SGD, with changes of the config: state before and after, metrics, recipe."""
    network = Network(build(read_experiment(small.quick_config(prepared)).model, "tiny", 3, seed=0))

    def step(**changes):
        config = small.quick_config(prepared)
        config.preset = "head"
        config.optimizer.update(name="sgd", momentum=0.0, clip_norm=0.0, learning_rate=0.5, weight_decay=0.0)
        config.optimizer.schedule = "constant"
        for key, value in changes.items():
            config[key].update(value)
        recipe = dataclasses.replace(
            Recipe.of(read_experiment(config), network, 10, (1, 1, 1)), class_weights=WEIGHTS
        )
        before = recipe.init_state(*network.init())
        after, metrics = jax.jit(make_train_step(recipe, 0))(before, BATCH)
        return before, after, metrics, recipe

    return step


def head_loss(recipe, state, image):
    """f(head's parameters) -> loss of the batch, its rows weighed by class."""
    apply = recipe.network.eval_function()

    def loss(head):
        logits = apply(state.params | head, state.batch_stats, image)
        log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), BATCH["label"][:, None], 1)[:, 0]
        weight = BATCH["mask"] * jnp.asarray(WEIGHTS)[BATCH["label"]]
        return -(log_p * weight).sum() / weight.sum()

    return loss


def head(state):
    return {path: p for path, p in state.params.items() if path.startswith("head/")}


def test_sharpness_aware_steps_descend_by_the_gradient_of_the_point_above(step_of):
    before, after, metrics, recipe = step_of(optimizer={"sam_rho": 0.3})
    loss = head_loss(recipe, before, BATCH["image"])
    gradient_of = jax.jit(jax.grad(loss))
    gradient = gradient_of(head(before))
    norm = np.sqrt(sum(float((g**2).sum()) for g in gradient.values()))
    above = {path: p + 0.3 * gradient[path] / norm for path, p in head(before).items()}
    there = gradient_of(above)
    for path, p in head(before).items():
        np.testing.assert_allclose(after.params[path], p - 0.5 * there[path], rtol=1e-4, atol=1e-6)
        assert np.abs(there[path] - gradient[path]).max() > 1e-4
    assert float(metrics["loss"]) == pytest.approx(float(loss(head(before))), rel=1e-5)


@pytest.mark.parametrize("parts", [2, 3])
def test_an_accumulated_step_is_the_step_of_the_whole_batch(step_of, parts):
    _, whole, said, _ = step_of()
    _, after, metrics, _ = step_of(optimizer={"accumulate": parts})
    for path, p in head(whole).items():
        np.testing.assert_allclose(after.params[path], p, rtol=1e-5, atol=1e-7)
    for name in ("loss", "accuracy", "gradient_norm/head"):
        assert float(metrics[name]) == pytest.approx(float(said[name]), rel=1e-5)
    assert all((after.batch_stats[path] == s).all() for path, s in whole.batch_stats.items())


def test_accumulation_that_batch_norm_would_notice_is_refused(quick):
    quick.optimizer.accumulate = 2
    for preset, message in (("stage4", "batch norm learns from step 0 on .stage4/"), ("head", None)):
        quick.preset = preset
        experiment = read_experiment(quick)
        network = Network(build(experiment.model, "tiny", 3, seed=0))
        if message is None:
            Recipe.of(experiment, network, 10, (1, 1, 1))
            continue
        with pytest.raises(UserError, match=message):
            Recipe.of(experiment, network, 10, (1, 1, 1))


def test_rows_that_do_not_divide_are_refused(step_of):
    with pytest.raises(UserError, match=r"optimizer\.accumulate=4 does not divide the 6 rows"):
        step_of(optimizer={"accumulate": 4})


@pytest.mark.slow
def test_the_loss_of_mixed_rows_is_the_mixture_of_their_losses(step_of):
    before, _, metrics, recipe = step_of(mix={"mixup": 1.0})
    key = jax.random.split(jax.random.fold_in(jax.random.key(0), 0))[0]
    mixed = jax.jit(mix, static_argnums=3)
    image, partner, share = mixed(key, BATCH["image"], BATCH["mask"], recipe.experiment.mix)
    forward = jax.jit(recipe.network.eval_function())
    logits = np.asarray(forward(before.params, before.batch_stats, image), np.float64)
    total = weight = 0.0
    for row in range(5):
        for label, part in (
            (BATCH["label"][row], share[row]),
            (BATCH["label"][partner[row]], 1 - share[row]),
        ):
            total -= WEIGHTS[label] * float(part) * log_softmax(logits[row])[label]
            weight += WEIGHTS[label] * float(part)
    assert float(metrics["loss"]) == pytest.approx(total / weight, rel=1e-4)
