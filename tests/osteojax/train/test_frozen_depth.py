"""Frozen depth of every classifier, from `head` to `all`, told from the program of a train step.

What is frozen is handed from the step's input to its output, the same variable of the program: not a bit can change.
`test_loop.py` has a trained network's values beside it.
"""

import jax
import jax.numpy as jnp
import pytest
import small

from osteojax import config as configs
from osteojax import models
from osteojax.models.build import ModelSection, build_shapes
from osteojax.models.network import Network
from osteojax.train.experiment import read_experiment
from osteojax.train.step import Recipe, make_train_step

PRESETS = {
    "head": ("head",),
    "stage4": ("stage4", "head"),
    "stage3+": ("stage3", "stage4", "head"),
    "stage1+": ("stage1", "stage2", "stage3", "stage4", "head"),
    "all": models.STAGES,
}
QUICK = {("mobilenet_v3_large", "stage4"), ("vit_small_patch16", "head")}


@pytest.mark.parametrize(
    "name, preset",
    [
        pytest.param(name, preset, marks=() if (name, preset) in QUICK else pytest.mark.slow)
        for name in small.SHIPPED
        for preset in PRESETS
    ],
)
def test_what_is_frozen_passes_through_and_holds_no_optimizer_state(name, preset):
    config = configs.load("configs/train/paper_resnet50.py")
    config.preset = preset
    experiment = read_experiment(config)
    network = Network(build_shapes(ModelSection(name, conv_impl="native"), name, 3))
    recipe = Recipe.of(experiment, network, 10, (1, 1, 1))
    state = jax.eval_shape(recipe.init_state, *network.init())
    batch = {
        "image": jax.ShapeDtypeStruct((2, 32, 32, 1), jnp.float32),
        "label": jax.ShapeDtypeStruct((2,), jnp.int32),
        "mask": jax.ShapeDtypeStruct((2,), jnp.float32),
    }
    program, (after, _) = jax.make_jaxpr(make_train_step(recipe, 0), return_shape=True)(state, batch)
    came_in = dict(zip(places(state), program.jaxpr.invars, strict=False))
    goes_out = dict(zip(places(after), program.jaxpr.outvars, strict=False))
    for path, variable in goes_out.items():
        kind, _, name_ = path.partition(":")
        part = name_.partition("/")[0]
        if kind in ("params", "batch_stats"):
            frozen = part not in PRESETS[preset]
            assert (variable is came_in[path]) == frozen, path
        elif kind == "opt_state" and part in models.STAGES:
            assert part in PRESETS[preset], path
    held = {path.partition(":")[2].partition("/")[0] for path in goes_out if path.startswith("opt_state:")}
    assert held >= set(PRESETS[preset])


def places(state):
    """Of each leaf of a state, in order, the field and the parameter's path: `params:stem/conv/kernel`."""
    found = []
    for keys, _ in jax.tree_util.tree_leaves_with_path(state):
        names = [str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", "")))) for key in keys]
        found.append(f"{names[0]}:{names[-1]}")
    return found
