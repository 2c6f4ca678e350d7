"""A step does no work for frozen parameters: the compiled program's FLOPs against the count by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from osteojax import config as configs
from osteojax import models
from osteojax.devices.mesh import make_mesh
from osteojax.models.layers import convolution as layers
from osteojax.models.network import Network
from osteojax.train import parameter_groups as groups
from osteojax.train.experiment import read_experiment
from osteojax.train.step import Recipe, compile_step

BATCH, SIZE = 16, 64


def multiplications(x, kernel, strides, padding):
    """Of one convolution, products with a padded zero not counted; its two gradients need as many each."""

    def taps(side, k, stride, pads):
        starts = range(-pads[0], side + pads[1] - k + 1, stride)
        return sum(0 <= start + i < side for start in starts for i in range(k))

    height, width = (taps(x[1 + d], kernel[d], strides[d], padding[d]) for d in range(2))
    return x[0] * height * width * kernel[2] * kernel[3]


def count(model, monkeypatch):
    """Multiplications of each convolution, by part of the model, in the order of execution."""
    original, found = layers.conv2d, {}
    parts = models.stages(model)[:-1]
    h = jnp.zeros((BATCH, SIZE, SIZE, 1))
    for part in parts:
        calls = []

        def record(x, kernel, *, strides, padding, feature_groups, impl, calls=calls):
            calls.append(multiplications(x.shape, kernel.shape, strides, padding))
            return original(
                x, kernel, strides=strides, padding=padding, feature_groups=feature_groups, impl=impl
            )

        monkeypatch.setattr(layers, "conv2d", record)
        h = jax.eval_shape(getattr(model, part), h)
        found[part] = calls
    monkeypatch.setattr(layers, "conv2d", original)
    return found


@pytest.mark.parametrize("preset", [pytest.param("stage3+", marks=pytest.mark.slow), "head"])
def test_the_step_costs_what_its_learning_parts_need(preset, monkeypatch):
    config = configs.load("configs/train/paper_resnet50.py")
    model = models.create("resnet18", rngs=nnx.Rngs(0), conv_impl="native")
    model.eval()
    counts = count(model, monkeypatch)
    network = Network(model)
    params, stats = network.init()
    config.preset = preset
    recipe = Recipe.of(read_experiment(config), network, 10, (1,) * 3)
    state = jax.eval_shape(recipe.init_state, params, stats)
    batch = {
        "image": jax.ShapeDtypeStruct((BATCH, SIZE, SIZE, 1), np.float32),
        "label": jax.ShapeDtypeStruct((BATCH,), np.int32),
        "mask": jax.ShapeDtypeStruct((BATCH,), np.float32),
    }
    _, facts = compile_step(recipe, 0, state, batch, make_mesh(data=1))

    trainable = groups.trainable_at(recipe.groups, recipe.labels, 0)
    learning = [part for part in counts if any(path.startswith(part) for path in trainable)]
    forward = sum(sum(calls) for calls in counts.values())
    kernels = sum(sum(counts[part]) for part in learning)
    inputs = kernels
    if learning:
        # Nobody needs the gradient of the first block's input: its first convolution's and, executed third, its
        # shortcut's.
        first_convolution, _, shortcut, *_ = counts[learning[0]]
        inputs -= first_convolution + shortcut
    by_hand = 2 * (forward + kernels + inputs)
    # On top: batch norm, ReLU, pooling, augmentation, the optimizer.
    assert by_hand < facts["step_flops"] < 1.12 * by_hand
