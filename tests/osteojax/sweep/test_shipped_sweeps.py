"""Sweeps of heads and recipes: their variants start, on a few generated images."""

import itertools

import clinical
import pytest

from osteojax.run.open import open_run
from osteojax.sweep import plan
from osteojax.train.loop import train

SMALL = [
    f"--config.{key}"
    for key in (
        "init=random", "model.name=tiny", "model.conv_impl=native", "mesh.data=1", "preset=head",
        "data.batch_size=16", "epochs=0.5", "eval.split=none", "model.attention.width=8", "model.attention.heads=2",
    )
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return clinical.write_dataset(tmp_path_factory.mktemp("clinical") / "data")


def variants(*names):
    return [(sweep, variant.name) for sweep in names for variant in plan.load_sweep(_file(sweep)).variants]


def _file(name):
    return f"configs/sweeps/{name}.py"


def started(sweep, variant, data, workdir):
    """The run of a variant after two steps, with a small network in place of its own."""
    found = plan.load_sweep(_file(sweep))
    planned = plan.plan(found, SMALL, prepared=str(data))
    config = next(run.config for run in planned if run.variant == variant)
    assert train(config, workdir) == 2
    return open_run(workdir)


@pytest.mark.parametrize(
    "sweep, variant",
    [
        ("attention", "attention"),
        ("hybrid", "hybrid"),
        ("imbalance", "logit adjustment"),
        ("paper_vs_best", "best"),
    ],
)
def test_what_a_sweep_is_about_starts(sweep, variant, data, tmp_path):
    run = started(sweep, variant, data, tmp_path / "run")
    assert (run.columns is not None) == (variant == "hybrid")
    assert hasattr(run.network._model.head, "look") == (variant == "attention")
    assert (run.config.loss.name == "logit_adjustment") == (variant == "logit adjustment")
    assert (run.config.optimizer.ema_decay > 0) == (variant == "best")


@pytest.mark.slow
@pytest.mark.parametrize("sweep, variant", variants("attention", "hybrid", "imbalance", "paper_vs_best"))
def test_every_variant_starts(sweep, variant, data, tmp_path):
    started(sweep, variant, data, tmp_path / "run")


def test_ingredients_are_added_one_by_one():
    found = {variant.name: variant.train for variant in plan.load_sweep(_file("paper_vs_best")).variants}
    sets = [set(values.items()) for values in found.values()]
    assert not sets[0] and all(one < other for one, other in itertools.pairwise(sets))
