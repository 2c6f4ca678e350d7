"""Statistics of averaged parameters, against the same pass in numpy; and that what is frozen keeps its own."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from osteojax.data.dataset import PreparedDataset
from osteojax.devices.mesh import make_mesh
from osteojax.errors import UserError
from osteojax.models.build import build
from osteojax.models.layers.norm import BatchNorm
from osteojax.models.network import Network
from osteojax.train.experiment import check, read_experiment
from osteojax.train.loop import train
from osteojax.train.recalibrate import recalibrated
from osteojax.train.step import Recipe

RNG = np.random.default_rng(0)
BATCHES = [
    {
        "image": jnp.asarray(RNG.random((4, 32, 32, 1)) * scale, jnp.float32),
        "mask": jnp.asarray(mask, jnp.float32),
    }
    for scale, mask in ((1.0, [1, 1, 1, 1]), (0.5, [1, 1, 0, 0]))
]


def test_the_statistics_are_those_of_the_averaged_parameters_over_the_batches(prepared):
    config = small.quick_config(prepared)
    config.optimizer.ema_decay, config.preset = 0.9, "stage4"
    experiment = read_experiment(config)
    network = Network(build(experiment.model, "tiny", 3, seed=0))
    recipe = Recipe.of(experiment, network, 10, (1, 1, 1))
    state = recipe.init_state(*network.init())
    state.ema = jax.tree.map(lambda p: 1.5 * p, state.params)
    state.ema_batch_stats = jax.tree.map(lambda s: s + 0.3, state.ema_batch_stats)
    found = recalibrated(recipe, state, 1, BATCHES, make_mesh(1, 1))
    moving = [path for path in state.batch_stats if path.startswith("stage4/")]
    changed = [p for p, s in found.ema_batch_stats.items() if (s != state.ema_batch_stats[p]).any()]
    assert sorted(changed) == sorted(moving)
    assert found.batch_stats is state.batch_stats and found.ema is state.ema

    # The first norm of stage 4 by hand: its input is the frozen network's, and its convolution the averaged one.
    path = "stage4/blocks/0/conv1"
    cut = network.cut("stage3")
    means, variances, counts = [], [], []
    for batch in BATCHES:
        real = np.asarray(batch["mask"]) > 0
        h = cut.features(state.ema, state.ema_batch_stats, batch["image"][real])
        y = jax.lax.conv_general_dilated(
            h,
            state.ema[path + "/kernel"],
            (2, 2),
            ((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        means.append(y.mean((0, 1, 2)))
        variances.append(y.reshape(-1, y.shape[-1]).var(0, ddof=1))
        counts.append(real.sum())
    shares = np.asarray(counts) / sum(counts)
    statistics = found.ema_batch_stats
    np.testing.assert_allclose(
        statistics[path + "/norm/mean"], shares @ np.stack(means), rtol=1e-3, atol=1e-5
    )
    np.testing.assert_allclose(
        statistics[path + "/norm/var"], shares @ np.stack(variances), rtol=1e-3, atol=1e-6
    )


def test_taking_statistics_leaves_the_momentum_of_training(prepared):
    model = build(read_experiment(small.quick_config(prepared)).model, "tiny", 3, seed=0)
    network = Network(model)
    network.statistics_function(frozenset(network.init()[0]))
    assert model.stem.conv.norm.momentum == BatchNorm(1).momentum


@pytest.mark.slow
def test_a_run_validates_with_them_and_saves_them(quick, tmp_path):
    quick.optimizer.update(ema_decay=0.9, recalibrate=2)
    quick.data.sampling = "balanced"
    quick.epochs = 1.0
    train(quick, tmp_path / "a")
    other = quick.copy_and_resolve_references()
    other.optimizer.recalibrate = 0
    train(other, tmp_path / "b")
    validated = [
        json.loads(line)["val/cross_entropy"]
        for name in "ab"
        for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        if "val/cross_entropy" in line
    ]
    assert len(validated) == 2 and validated[0] != validated[1]


@pytest.mark.parametrize(
    "section, change, message",
    [
        ("optimizer", {"recalibrate": 3}, "ema_decay=0 keeps none"),
        ("loss", {"class_weights": "balanced"}, "would count that twice"),
        ("loss", {"name": "logit_adjustment"}, "would count that twice"),
    ],
)
def test_what_does_not_go_together_is_refused(quick, prepared, section, change, message):
    quick.data.sampling = "balanced"
    quick[section].update(change)
    with pytest.raises(UserError, match=message):
        check(read_experiment(quick), PreparedDataset.open(prepared))
