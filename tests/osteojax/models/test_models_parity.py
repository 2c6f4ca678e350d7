"""Block by block against PyTorch: the goldens of `tests/goldens/make_goldens.py`, float32, 1e-4 relative.

The error of a block is the largest difference over its mean, mean magnitude, largest magnitude and 96 sampled
activations, relative to the largest magnitude among them. 1e-4 is some 1,000 times float32's rounding: room
for the order of summation over up to 152 layers, far below what a wrong stride, padding, epsilon or channel
order does.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from flax import nnx

from osteojax import models
from osteojax.models import resnet
from osteojax.models.layers.pool import max_pool
from osteojax.weights import layouts
from tests.goldens import seeded

GOLDENS = Path(__file__).resolve().parents[2] / "goldens"
TOLERANCE = 1e-4
SLOW = (
    "resnet34",
    "resnet50_v1",
    "resnet101",
    "resnet152",
    "resnet101_v1",
    "resnet152_v1",
    "vgg16_bn",
    "efficientnet_lite0_timm",
    "mobilenet_v3_large_timm",
)


def layout_of(arch):
    """The goldens' own names; the v1 networks' PyTorch twins carry torchvision's."""
    return resnet.TORCHVISION if arch.endswith("_v1") else models.ARCHITECTURES.get(arch).layouts[0]


def origins(arch):
    found = layouts.origins_of(layout_of(arch), arch)
    return {
        path: layouts.Origin(
            origin.keys,
            tuple(tuple(1000 if n == -1 else n for n in s) for s in origin.shapes),
            origin.convert,
        )
        for path, origin in found.items()
    }


def seeded_model(arch):
    """The network with the goldens' weights, built without drawing random ones first."""
    arrays = {
        path: origin.convert(*(seeded.tensor(k, s) for k, s in zip(origin.keys, origin.shapes, strict=True)))
        for path, origin in origins(arch).items()
    }
    # One network as users run it; the matrix products take long to compile, and test_conv.py proves them
    # equal.
    impl = "auto" if arch == "resnet50" else "native"
    abstract = nnx.eval_shape(
        lambda: models.create(arch, num_classes=1000, in_channels=3, conv_impl=impl, rngs=nnx.Rngs(0))
    )
    graph, state = nnx.split(abstract)
    for path, variable in nnx.to_flat_state(state):
        variable.set_value(jnp.asarray(arrays["/".join(map(str, path))], jnp.float32))
    return nnx.merge(graph, state)


def block_outputs(model, x, mask=None):
    """Name -> activations of every block, with the names of make_goldens.py."""
    outputs = {}
    h = x
    for part in models.stages(model):
        module = getattr(model, part)
        if getattr(module, "transition", None) is not None:
            h = outputs[f"{part}/transition"] = module.transition(h, mask)
        for position, block in enumerate(getattr(module, "blocks", ())):
            h = outputs[f"{part}/{position}"] = block(h, mask)
        for position, conv in enumerate(getattr(module, "convs", ())):
            h = outputs[f"{part}/{position}"] = jax.nn.relu(conv(h, mask))
        if getattr(module, "final", None) is not None:
            h = outputs[f"{part}/final"] = module.final(h, mask)
        if hasattr(module, "convs"):
            h = max_pool(h, 2, 2)
        elif not hasattr(module, "blocks"):
            h = outputs[part] = module(h, mask)
    return outputs


def relative_error(ours, golden):
    return np.abs(ours - golden).max() / np.abs(golden).max()


@functools.cache
def golden(arch):
    with np.load(GOLDENS / f"{arch}.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def eval_errors(arch):
    """Block -> relative error in inference mode."""
    model = seeded_model(arch)
    model.eval()
    outputs = nnx.jit(block_outputs)(model, seeded.images())
    wanted = {
        key.removeprefix("eval:"): value for key, value in golden(arch).items() if key.startswith("eval:")
    }
    assert outputs.keys() == wanted.keys()
    return {block: relative_error(seeded.summary(outputs[block]), wanted[block]) for block in wanted}


@pytest.mark.parametrize(
    "arch", [pytest.param(a, marks=pytest.mark.slow) if a in SLOW else a for a in small.SHIPPED]
)
def test_every_block_equals_pytorch(arch):
    errors = eval_errors(arch)
    assert max(errors.values()) < TOLERANCE, errors


@pytest.mark.parametrize(
    "arch",
    ["efficientnet_lite0", "vit_small_patch16"]
    + [
        pytest.param(a, marks=pytest.mark.slow)
        for a in (
            "resnet50",
            "vgg16_bn",
            "densenet121",
            "mobilenet_v2",
            "mobilenet_v3_large",
            "efficientnet_b0",
            "convnext_tiny",
            "swin_t",
        )
    ],
)
def test_a_size_that_leaves_remainders_equals_pytorch(arch):
    """75 x 90 pixels: padding and incomplete windows differ at every stage from those of 64 x 64."""
    model = seeded_model(arch)
    model.eval()
    logits = nnx.jit(lambda model, x: model(x))(model, seeded.images(*seeded.ODD_SIZE))
    assert relative_error(seeded.summary(logits), golden(arch)["odd:head"]) < TOLERANCE


def test_positions_are_interpolated_as_timm_interpolates_them():
    """448 pixels: 28 x 28 patches, positions of 14 x 14. Smaller grids stand in the tests above."""
    stem = seeded_model("vit_small_patch16").stem
    tokens = nnx.jit(lambda stem, x: stem(x))(stem, seeded.images(448, 448)[:1])
    assert tokens.shape == (1, 1 + 28 * 28, 384)
    assert relative_error(seeded.summary(tokens), golden("vit_small_patch16")["large:stem"]) < 1e-5


@pytest.mark.parametrize("arch", small.SHIPPED)
def test_our_layout_asks_for_exactly_the_tensors_of_the_pytorch_network(arch):
    asked = {
        f"{key} {shape}"
        for origin in origins(arch).values()
        for key, shape in zip(origin.keys, origin.shapes, strict=True)
    }
    assert sorted(asked) == list(golden(arch)["keys"])


@pytest.mark.parametrize("arch", [arch for arch in small.SHIPPED if "norms" in golden(arch)])
def test_norms_have_the_publishers_constants(arch):
    """Epsilon and momentum of every norm, by the name of the tensor that scales."""
    model = nnx.eval_shape(lambda: models.create(arch, rngs=nnx.Rngs(0)))
    named = origins(arch)
    ours = [
        f"{named['/'.join(map(str, (*path, 'scale')))].keys[0]} "
        + (f"{norm.eps:g} {norm.momentum:g}" if isinstance(norm, models.BatchNorm) else f"{norm.epsilon:g} 0")
        for path, norm in nnx.iter_modules(model)
        if isinstance(norm, models.BatchNorm | nnx.LayerNorm)
    ]
    assert sorted(ours) == list(golden(arch)["norms"])


def assert_statistics_equal(model, arch):
    """Updated running statistics: the first 8 of every batch norm."""
    variables = {"/".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(nnx.state(model))}
    for path, origin in origins(arch).items():
        if "running" in origin.keys[0]:
            wanted = golden(arch)[f"statistic:{origin.keys[0]}"]
            np.testing.assert_allclose(
                variables[path][:8], wanted, rtol=TOLERANCE, atol=1e-5, err_msg=origin.keys[0]
            )


def assert_activations_equal(outputs, arch):
    for block, activations in outputs.items():
        assert relative_error(seeded.summary(activations), golden(arch)[f"train:{block}"]) < TOLERANCE, block


def test_a_training_step_equals_pytorch():
    """ResNet-18 in training mode: activations, loss, running statistics and the norm of every gradient."""
    arch = "resnet18"
    wanted = golden(arch)
    model = seeded_model(arch)
    x = seeded.images()

    @nnx.jit
    def step(model):
        def loss(model):
            outputs = block_outputs(model, x)
            picked = jax.nn.log_softmax(outputs["head"])[jnp.arange(len(x)), jnp.arange(len(x))]
            return -picked.mean(), outputs

        return nnx.value_and_grad(loss, has_aux=True)(model)

    (loss, outputs), gradients = step(model)
    assert_activations_equal(outputs, arch)
    assert abs(loss - wanted["loss"]) < TOLERANCE * abs(wanted["loss"])
    assert_statistics_equal(model, arch)
    gradient = {"/".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(gradients)}
    for path, leaf in gradient.items():
        norm = np.linalg.norm(leaf[...])
        reference = wanted[f"gradient:{origins(arch)[path].keys[0]}"]
        # The golden is float64. Sums over the whole batch, back through all layers: ten times the tolerance.
        assert abs(norm - reference) < 10 * TOLERANCE * reference, path


def test_training_mode_with_tensorflows_constants_equals_pytorch():
    """EfficientNet-Lite0: momentum 0.01, epsilon 1e-3, depthwise convolutions with SAME padding."""
    arch = "efficientnet_lite0"
    model = seeded_model(arch)
    assert_activations_equal(nnx.jit(block_outputs)(model, seeded.images()), arch)
    assert_statistics_equal(model, arch)
