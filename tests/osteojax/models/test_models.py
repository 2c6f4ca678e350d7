"""The models' interface: parts, modes, masks, input channels, dtypes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from flax import nnx

from osteojax import models
from osteojax.errors import UserError
from osteojax.models.layers.convolution import ConvBN, Input, InputConv, InputConvBN, LayerOptions
from osteojax.train.parameter_groups import assign, preset, trainable_at
from osteojax.weights import layouts

# One of each kind of block, and all whose parts are cut otherwise.
FAMILIES = (
    "resnet50",
    "efficientnet_lite0",
    "vgg16_bn",
    "densenet121",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "convnext_tiny",
    "vit_small_patch16",
    "swin_t",
)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).random((4, 64, 64, 1), np.float32)


@nnx.jit
def logits_of(model, x, mask=None):
    return model(x, mask)


def randomise_statistics(model, seed=0):
    """Batch-norm statistics and affine parameters far from their neutral start."""
    rng = np.random.default_rng(seed)
    for _, module in nnx.iter_modules(model):
        if isinstance(module, models.BatchNorm):
            size = module.scale.shape[0]
            module.scale[...] = jnp.asarray(rng.uniform(0.5, 1.5, size), jnp.float32)
            module.bias[...] = jnp.asarray(rng.normal(0, 0.3, size), jnp.float32)
            module.mean[...] = jnp.asarray(rng.normal(0, 0.3, size), jnp.float32)
            module.var[...] = jnp.asarray(rng.uniform(0.5, 2, size), jnp.float32)


@pytest.mark.slow
def test_the_parts_compose_to_the_whole(images):
    model = models.create("resnet18", conv_impl="native", rngs=nnx.Rngs(0))
    model.eval()
    assert models.stages(model) == ("stem", "stage1", "stage2", "stage3", "stage4", "head")
    images = images[:, :32, :32]
    whole = model(images)
    assert whole.shape == (4, 3) and whole.dtype == jnp.float32
    for upto, start in (("stem", "stage1"), ("stage3", "stage4"), ("stage4", "head")):
        np.testing.assert_array_equal(model.from_features(model.features(images, upto), start), whole)


def test_every_parameter_path_starts_with_a_part():
    for name in FAMILIES:
        firsts = {path.split("/")[0] for path in layouts.parameter_shapes(name)}
        assert firsts == set(models.STAGES), name


@pytest.mark.parametrize("name", FAMILIES)
def test_every_preset_means_something_in_every_family(name):
    """Each group of each preset claims parameters, and what is frozen is what stands before the named stage."""
    paths = [path for path in layouts.parameter_shapes(name) if not path.endswith(("/mean", "/var"))]
    for chosen in (
        "head",
        "stem",
        *(f"stage{k}" for k in range(1, 5)),
        "stage1+",
        "stage3+",
        "bn_affine",
        "all",
    ):
        groups = preset(chosen, models.STAGES)
        labels = assign(groups, paths)
        learning = {path.split("/")[0] for path in trainable_at(groups, labels, 0)}
        if chosen.endswith("+"):
            assert learning == set(models.STAGES[models.STAGES.index(chosen[:-1]) :])
        elif chosen in ("all", "bn_affine"):
            assert learning >= set(models.STAGES[1:])
        else:
            assert learning == {chosen, "head"}


@pytest.mark.parametrize("kind, size", [(InputConvBN, 7), (InputConvBN, 8), (InputConv, 8)])
def test_grey_equals_the_same_image_in_three_channels_borders_and_gradients_too(kind, size):
    """Exact algebra; float32 rounding of sums of 147 terms of order 1 stays below 1e-5."""
    spec = models.ARCHITECTURES.get("resnet50").preprocessing
    grey, colour = (
        kind(
            8,
            7,
            image=Input(channels, spec.mean, spec.std),
            stride=2,
            options=LayerOptions(conv_impl="native"),
            rngs=nnx.Rngs(0),
        )
        for channels in (1, 3)
    )
    g = np.random.default_rng(1).random((2, size, size, 1), np.float32)
    rgb = np.repeat(g, 3, axis=-1)

    @nnx.jit
    def value_and_gradient(layer, x):
        gradient = nnx.grad(lambda layer: jnp.square(layer(x)).sum())(layer)["kernel"][...]
        return layer(x), gradient

    for mode in ("train", "eval"):
        getattr(grey, mode)(), getattr(colour, mode)()
        (y, dy), (y3, dy3) = value_and_gradient(grey, g), value_and_gradient(colour, rgb)
        np.testing.assert_allclose(y, y3, atol=1e-5)
        np.testing.assert_allclose(dy, dy3, rtol=1e-4, atol=1e-3)


def test_grey_in_bfloat16_is_grey_in_float32_to_bfloat16_tolerance():
    """There the constant term is a channel of ones, here a second convolution."""
    spec = models.ARCHITECTURES.get("resnet50").preprocessing
    narrow, wide = (
        InputConvBN(
            8,
            7,
            image=Input(1, spec.mean, spec.std),
            stride=2,
            options=LayerOptions(conv_impl="native", dtype=dtype),
            rngs=nnx.Rngs(0),
        )
        for dtype in (jnp.bfloat16, jnp.float32)
    )
    g = np.random.default_rng(1).random((2, 15, 15, 1), np.float32)
    weight = np.random.default_rng(2).random((2, 8, 8, 8), np.float32)

    @nnx.jit
    def value_and_gradient(layer):
        gradient = nnx.grad(lambda layer: (layer(g) * weight).sum())(layer)["kernel"][...]
        return layer(g), gradient

    narrow.eval(), wide.eval()
    for ours, wanted in zip(value_and_gradient(narrow), value_and_gradient(wide), strict=True):
        np.testing.assert_allclose(ours.astype(jnp.float32), wanted, rtol=0, atol=0.01 * np.abs(wanted).max())


def test_the_grey_fold_is_not_what_a_shifted_zero_padding_would_give():
    """Folding mean and std into kernel and bias alone is wrong at the border: the test above can fail."""
    spec = models.ARCHITECTURES.get("resnet50").preprocessing
    layer = InputConvBN(
        4,
        7,
        image=Input(1, spec.mean, spec.std),
        options=LayerOptions(conv_impl="native"),
        rngs=nnx.Rngs(0),
    )
    layer.eval()
    g = np.full((1, 16, 16, 1), 0.9, np.float32)
    y = layer(g)
    assert np.abs(y[0, 8, 8] - y[0, 7, 8]).max() < 1e-5
    assert np.abs(y[0, 0, 8] - y[0, 8, 8]).max() > 1e-2


def test_frozen_batch_norm_folded_into_the_kernel_equals_the_unfolded_gradients_too():
    block = ConvBN(64, 16, 3, stride=2, options=LayerOptions(conv_impl="native"), rngs=nnx.Rngs(0))
    randomise_statistics(block)
    block.eval()
    h = np.random.default_rng(2).normal(size=(2, 9, 9, 64)).astype(np.float32)

    @nnx.jit
    def folded(block):
        return block(h)

    @nnx.jit
    def unfolded(block):
        return block.norm(block.convolve(jnp.asarray(h), block.kernel[...]))

    np.testing.assert_allclose(folded(block), unfolded(block), atol=2e-5)
    ours = nnx.grad(lambda b: jnp.square(folded(b)).sum())(block)
    plain = nnx.grad(lambda b: jnp.square(unfolded(b)).sum())(block)
    for path, leaf in nnx.to_flat_state(ours):
        np.testing.assert_allclose(
            leaf[...], dict(nnx.to_flat_state(plain))[path][...], rtol=1e-3, atol=1e-2, err_msg=str(path)
        )


def test_bfloat16_computes_near_float32_and_keeps_parameters_and_logits_float32(images):
    single = models.create("resnet18", conv_impl="native", rngs=nnx.Rngs(0))
    half = models.create("resnet18", conv_impl="native", rngs=nnx.Rngs(0), dtype=jnp.bfloat16)
    for model in (single, half):
        model.eval()
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(nnx.state(half)))
    assert jax.eval_shape(lambda: half.features(images, "stage1")).dtype == jnp.bfloat16
    exact, rounded = logits_of(single, images), logits_of(half, images)
    assert rounded.dtype == jnp.float32
    # bfloat16 has 8 bits of mantissa: 0.4 % a rounding, some 20 roundings deep
    assert np.abs(exact - rounded).max() < 0.05 * np.abs(exact).max()


def test_eval_of_one_stage_keeps_its_statistics_and_only_its(images):
    model = models.create("resnet18", conv_impl="native", rngs=nnx.Rngs(0))
    model.stage1.set_attributes(models.BatchNorm, use_running_average=True)
    before = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
    logits_of(model, images)
    after = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
    same = jax.tree.map(lambda a, b: bool((a == b).all()), before, after)
    assert all(jax.tree.leaves(same["stage1"]))
    assert not any(jax.tree.leaves({part: same[part] for part in ("stem", "stage2", "stage3", "stage4")}))


def test_a_grey_image_with_a_map_beside_it_is_image_image_map():
    grey, rgb = (
        models.create("resnet18", in_channels=channels, conv_impl="native", rngs=nnx.Rngs(0))
        for channels in (1, 3)
    )
    x = jnp.asarray(np.random.default_rng(0).random((2, 32, 32, 2)), jnp.float32)
    seen = grey.stem.conv.convolve(x, grey.stem.conv.kernel[...])
    expected = rgb.stem.conv.convolve(
        jnp.stack([x[..., 0], x[..., 0], x[..., 1]], -1), rgb.stem.conv.kernel[...]
    )
    np.testing.assert_allclose(seen, expected, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [224, 448])
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ("resnet18", "vit_small_patch16") else pytest.mark.slow)
        for name in small.SHIPPED
    ],
)
def test_every_classifier_takes_both_sizes_and_stems_of_one_and_three_channels(name, size, channels):
    """The shape of the logits and of what the last stage sees: a 32nd of the image, or all tokens."""

    def seen(x):
        model = models.create(name, in_channels=channels, rngs=nnx.Rngs(0))
        model.eval()
        last = model.features(x, "stage4")
        return last, model.from_features(last, "head")

    last, logits = jax.eval_shape(seen, jax.ShapeDtypeStruct((2, size, size, channels), jnp.float32))
    assert logits.shape == (2, 3) and logits.dtype == jnp.float32
    places = math.prod(last.shape[1:-1])
    assert places == (1 + (size // 16) ** 2 if name.startswith("vit") else (size // 32) ** 2), last.shape


@pytest.mark.parametrize(("shape", "channels"), [((2, 31, 64, 1), 1), ((2, 64, 64), 1), ((2, 64, 64, 3), 1)])
def test_images_that_do_not_fit_are_refused(shape, channels):
    with pytest.raises(ValueError, match=r"channels|at least 32"):
        nnx.eval_shape(
            lambda: models.create("resnet18", in_channels=channels, rngs=nnx.Rngs(0))(jnp.zeros(shape))
        )


def test_unknown_names_are_refused():
    with pytest.raises(UserError, match="resnet50"):
        models.create("resnet51", rngs=nnx.Rngs(0))
    model = nnx.eval_shape(lambda: models.create("resnet18", rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match="stage5"):
        model.features(jnp.zeros((1, 64, 64, 1)), "stage5")
    with pytest.raises(ValueError, match="in_channels"):
        models.create("resnet18", in_channels=2, rngs=nnx.Rngs(0))
