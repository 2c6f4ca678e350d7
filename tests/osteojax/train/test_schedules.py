"""Each schedule against its formula, or PyTorch's; the plateau against PyTorch's rule."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from osteojax.data.dataset import PreparedDataset
from osteojax.errors import UserError
from osteojax.train.experiment import OptimizerSection, check, read_experiment
from osteojax.train.optimizer import carry_over, make_optimizer, make_schedule, note_validation, scale_of
from osteojax.train.parameter_groups import ParameterGroup, preset
from osteojax.train.schedules.plateau import Plateau

PEAK = 0.3


def rates(name, steps, warmup=0, **settings):
    section = OptimizerSection(
        schedule=name, learning_rate=PEAK, warmup_steps=warmup, schedule_settings=settings
    )
    schedule = make_schedule(section, steps)
    return np.asarray([float(schedule(step)) for step in range(steps + 1)])


def test_linear_exponential_and_step_are_their_formulas():
    t = np.arange(41) / 40
    np.testing.assert_allclose(rates("linear", 40, end=0.1), PEAK * (1 - 0.9 * t), rtol=1e-5)
    np.testing.assert_allclose(rates("exponential", 40, end=0.05), PEAK * 0.05**t, rtol=1e-5)
    falls = PEAK * np.where(t < 0.25, 1, np.where(t < 0.8, 0.5, 0.25))
    np.testing.assert_allclose(rates("step", 40, factor=0.5, at=(0.25, 0.8)), falls, rtol=1e-5)


def test_one_cycle_is_along_half_cosines():
    """As `torch.optim.lr_scheduler.OneCycleLR` documents it: up from max / 25, down to that over 1e4."""
    found = rates("one_cycle", 40, rise=0.25)
    low, least = PEAK / 25, PEAK / 25 / 1e4
    wave = lambda a, b, share: b + (a - b) / 2 * (1 + np.cos(np.pi * share))  # noqa: E731
    expected = [wave(low, PEAK, s / 10) if s <= 10 else wave(PEAK, least, (s - 10) / 30) for s in range(41)]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(
        rates("one_cycle", 44, warmup=4, rise=0.25)[:5], low * np.arange(5) / 4, rtol=1e-4
    )


def torch_rule(values, factor, patience, cooldown, threshold, least):
    """`torch.optim.lr_scheduler.ReduceLROnPlateau`, mode min, threshold_mode abs, whose patience is ours minus one."""
    scale, best, bad, cool, scales = 1.0, np.inf, 0, 0, []
    for value in values:
        bad = 0 if value < best - threshold else bad + 1
        best = value if value < best - threshold else best
        if cool > 0:
            cool, bad = cool - 1, 0
        if bad > patience - 1:
            scale, cool, bad = max(scale * factor, least), cooldown, 0
        scales.append(scale)
    return scales


@pytest.mark.parametrize("cooldown", [0, 2])
def test_the_plateau_is_pytorchs_rule(cooldown):
    values = np.random.default_rng(3).normal(size=40).cumsum() * 0.1
    settings = Plateau(factor=0.5, patience=2, cooldown=cooldown, threshold=0.01, least=0.05)
    section = OptimizerSection(
        schedule="plateau",
        schedule_settings={
            "factor": 0.5,
            "patience": 2,
            "cooldown": cooldown,
            "threshold": 0.01,
            "least": 0.05,
        },
    )
    optimizer = make_optimizer(
        section, (ParameterGroup("a", ".*"),), {"x": "a"}, optax.constant_schedule(1.0), 0
    )
    state = optimizer.init({"x": jnp.ones((2, 2))})
    noted = jax.jit(lambda state, value: note_validation(settings, state, value))
    found = []
    for value in values:
        state = noted(state, np.float32(value))
        found.append(float(scale_of(state)))
    np.testing.assert_allclose(found, torch_rule(values, 0.5, 2, cooldown, 0.01, 0.05), rtol=1e-6)
    assert len(set(found)) > 3


def test_a_fallen_rate_scales_the_step_and_outlives_a_phase():
    section = OptimizerSection(name="sgd", momentum=0.0, weight_decay=0.0, clip_norm=0.0, schedule="plateau")
    groups = (ParameterGroup("a", "x"), ParameterGroup("b", "y", unfreeze_step=2))
    labels = {"x": "a", "y": "b"}

    def make(step):
        return make_optimizer(section, groups, labels, optax.constant_schedule(1.0), step)

    params = {"x": jnp.ones((2, 2)), "y": jnp.ones((2, 2))}
    state = make(0).init(params)
    for _ in range(4):
        state = note_validation(Plateau(), state, jnp.float32(1.0))
    state, _ = carry_over(state, make(2).init(params))
    updates, _ = make(2).update(params, state, params, step=2)
    np.testing.assert_allclose(updates["x"], -0.1, rtol=1e-6)
    np.testing.assert_allclose(updates["y"], -0.1, rtol=1e-6)


def test_a_plateau_without_validation_is_refused(quick, prepared):
    quick.optimizer.schedule, quick.eval.split = "plateau", "none"
    with pytest.raises(UserError, match="nothing is validated"):
        check(read_experiment(quick), PreparedDataset.open(prepared))


STAGES = ("stem", "stage1", "stage2", "head")


def test_layer_decay_is_a_power_of_the_distance_from_the_head():
    factors = {group.name: group.lr_factor for group in preset("all@0.5", STAGES)}
    assert factors == {"head": 1.0, "stage2": 0.5, "stage1": 0.25, "stem": 0.125}
    some = preset("stage2@0.5", STAGES)
    assert [(g.name, g.lr_factor, g.frozen) for g in some] == [
        ("head", 1.0, False),
        ("stage2", 0.5, False),
        ("frozen", 1.0, True),
    ]


@pytest.mark.parametrize("name", ["all@0", "all@x", "all@1.5", "bn_affine@0.5", "all@nan"])
def test_an_impossible_layer_decay_is_an_error(name):
    with pytest.raises(UserError, match="behind the @ stands a number above 0"):
        preset(name, STAGES)
