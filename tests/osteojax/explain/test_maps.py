"""The explainers against computations written out here: closed forms in numpy, and plain Python loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from flax import nnx
from networks import HEIGHT, WIDTH, Explained, model

from osteojax import models
from osteojax.errors import UserError
from osteojax.explain.registry import EXPLAINERS
from osteojax.models.network import Cut, Network

SMALL = {"patch": 16, "stride": 12, "steps": 4}


def explainer(name, **settings):
    """The registered function with these settings, or small ones."""
    return EXPLAINERS.bind(name, SMALL, settings, "explain")


def enlarged(coarse, height=HEIGHT, width=WIDTH):
    """Bilinear with pixel centres at halves and the border's value beyond it, row by row and column by column."""

    def places(small, large):
        return (np.arange(large) + 0.5) * small / large - 0.5

    rows = np.stack(
        [np.interp(places(len(c), height), np.arange(len(c)), c) for c in np.asarray(coarse, float).T]
    ).T
    return np.stack([np.interp(places(len(r), width), np.arange(len(r)), r) for r in rows])


def by_hand(activations, weights):
    return [
        enlarged(np.maximum((a * w).sum(-1), 0))
        for a, w in zip(np.asarray(activations, float), weights, strict=True)
    ]


# float32 sums of a few hundred terms, against float64.
CLOSE = {"rtol": 1e-4, "atol": 1e-6}


def test_grad_cam_of_a_pooling_head_is_the_class_activation_map():
    given = Explained()
    activations = given.model.features(given.image)
    _, h, w, _ = activations.shape
    weights = given.model.head.fc.kernel[...][:, given.label].T / (h * w)
    expected = by_hand(activations, np.asarray(weights))
    assert np.max(expected) > 0
    np.testing.assert_allclose(explainer("grad_cam")(*given), expected, **CLOSE)


def hidden_gradient(given, activations):
    """(B, h, w, C) of the class logit by the activations, through `HiddenHead`, by the chain rule."""
    first, last = given.model.head.fc1, given.model.head.fc
    flat = np.asarray(activations, float).reshape(len(activations), -1)
    alive = flat @ np.asarray(first.kernel[...], float) + np.asarray(first.bias[...]) > 0
    onwards = alive * np.asarray(last.kernel[...], float).T[given.label]
    return (onwards @ np.asarray(first.kernel[...], float).T).reshape(activations.shape)


def test_grad_cam_averages_the_gradient_of_a_head_with_a_hidden_layer():
    given = Explained(model(hidden=True))
    activations = given.model.features(given.image)
    gradient = hidden_gradient(given, activations)
    assert gradient.std((1, 2)).max() > 0.01
    expected = by_hand(activations, gradient.mean((1, 2)))
    np.testing.assert_allclose(explainer("grad_cam")(*given), expected, **CLOSE)


@pytest.mark.parametrize("hidden", [False, True])
def test_grad_cam_plus_plus_as_equation_19_writes_it(hidden):
    given = Explained(model(hidden=hidden))
    activations = np.asarray(given.model.features(given.image), float)
    _, h, w, _ = activations.shape
    linear = np.asarray(given.model.head.fc.kernel[...], float)
    gradient = (
        hidden_gradient(given, activations)
        if hidden
        else np.broadcast_to(linear.T[given.label][:, None, None] / (h * w), activations.shape)
    )
    alpha = gradient**2 / (2 * gradient**2 + activations.sum((1, 2), keepdims=True) * gradient**3)
    weights = (alpha * np.maximum(gradient, 0)).sum((1, 2))
    np.testing.assert_allclose(explainer("grad_cam++")(*given), by_hand(activations, weights), **CLOSE)


def test_grad_cam_plus_plus_is_finite_where_the_divisor_vanishes():
    """One channel of sum -2 over gradient 1, where equation 19 divides by zero."""
    activations = jnp.asarray([-3.0, 1.0]).reshape(1, 1, 2, 1)
    cut = Cut(lambda p, s, x: activations, lambda p, s, h: h.sum((1, 2)))
    found = explainer("grad_cam++")(cut, {}, {}, np.zeros((1, 4, 4, 1), np.float32), np.zeros(1, np.int32))
    np.testing.assert_array_equal(found, np.zeros((1, 4, 4)))


def test_integrated_gradients_are_the_loop_over_the_way_from_black():
    given = Explained()
    gradient = jax.jit(jax.grad(lambda x: given.logit(x).sum()))
    total = sum(np.asarray(gradient((k + 0.5) / 5 * given.image), float) for k in range(5))
    expected = (given.image * total / 5)[..., 0]
    found = explainer("integrated_gradients", steps=5)(*given)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)


def test_integrated_gradients_are_complete():
    """The sum of a map is the logit's rise from black to the image.

    The gradient of a network of ReLUs jumps on the way, and the midpoint rule misses the places by half a step: of the
    rise, 9 % were measured at 32 steps, 1.4 % at 128 and 0.5 % at 256.
    """
    given = Explained(model(hidden=True), batch=4)
    rise = given.logit(given.image) - given.logit(np.zeros_like(given.image))
    found = explainer("integrated_gradients", steps=256)(*given).sum((1, 2))
    np.testing.assert_allclose(found, rise, atol=0.01 * np.abs(rise).max())


def test_occlusion_is_the_loop_over_squares():
    given = Explained()
    patch, whole = 20, np.asarray(given.logit(given.image))
    forward = jax.jit(given.logit)
    total, times = np.zeros((2, HEIGHT, WIDTH)), np.zeros((HEIGHT, WIDTH))
    for row in (0, 9, 12):
        for column in (0, 9, 18, 27, 28):
            square = np.s_[row : row + patch, column : column + patch]
            hidden = given.image.copy()
            for b in range(2):
                hidden[b][square] = given.image[b].mean()
            fall = whole - np.asarray(forward(hidden))
            for b in range(2):
                total[b][square] += fall[b]
            times[square] += 1
    assert times.min() == 1
    found = explainer("occlusion", patch=patch, stride=9)(*given)
    np.testing.assert_allclose(found, total / times, atol=1e-5 * np.abs(total).max())


@pytest.mark.parametrize(("patch", "stride"), [(33, 8), (8, 9)])
def test_squares_that_do_not_fit_or_leave_gaps_are_refused(patch, stride):
    with pytest.raises(ValueError, match=f"squares of {patch} pixels, {stride} apart"):
        explainer("occlusion", patch=patch, stride=stride)(*Explained())


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPLAINERS)
def test_an_image_is_explained_alike_alone_and_in_a_batch(name):
    given = Explained()
    together = explainer(name)(*given)
    assert np.abs(together[0] - together[1]).max() > 1e-3
    alone = [
        explainer(name)(given.cut, given.params, given.stats, given.image[i : i + 1], given.label[i : i + 1])
        for i in range(2)
    ]
    np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", EXPLAINERS)
def test_a_network_that_says_the_same_of_every_image_has_a_map_of_zeros(name):
    given = Explained()
    given.params["head/fc/kernel"] = jnp.zeros_like(given.params["head/fc/kernel"])
    np.testing.assert_array_equal(explainer(name)(*given), np.zeros((2, HEIGHT, WIDTH), np.float32))


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPLAINERS)
def test_maps_of_bfloat16_networks_are_float32_and_finite(name):
    found = explainer(name)(*Explained(model(dtype=jnp.bfloat16)))
    assert found.shape == (2, HEIGHT, WIDTH) and found.dtype == jnp.float32
    assert np.isfinite(found).all() and np.ptp(found) > 0


@pytest.mark.slow
@pytest.mark.parametrize("upto", ["stem", "stage2", "stage3"])
def test_class_activation_maps_of_earlier_parts(upto):
    given = Explained(upto=upto)
    assert np.isfinite(explainer("grad_cam++")(*given)).all()
    found = explainer("grad_cam")(*given)
    activations = given.model.features(given.image, upto)
    gradient = jax.grad(
        lambda h: given.model.from_features(h, models.STAGES[models.STAGES.index(upto) + 1])[
            np.arange(2), given.label
        ].sum()
    )(activations)
    np.testing.assert_allclose(found, by_hand(activations, np.asarray(gradient.mean((1, 2)))), **CLOSE)


def test_a_cut_network_is_the_whole_one_with_its_running_statistics():
    given = Explained()
    train = given.network.train_function(set(given.params))
    cut = given.network.cut("stage2")
    expected = given.network.eval_function()(given.params, given.stats, given.image)
    np.testing.assert_array_equal(cut.logits(given.params, given.stats, given.image), expected)
    ones, key = np.ones(2, np.float32), jax.random.key(0)
    trained, _ = train(given.params, given.stats, given.image, ones, key)
    assert np.abs(trained - expected).max() > 1e-2


@pytest.mark.parametrize("part", ["head", "stage5"])
def test_there_is_no_cut_behind_the_head_or_an_unknown_part(part):
    with pytest.raises(ValueError, match=f"no part '{part}' to cut behind; there are stem, stage1"):
        Network(model()).cut(part)


def test_settings_are_checked():
    with pytest.raises(UserError, match=r"explain\.steps is 0"):
        explainer("integrated_gradients", steps=0)


# What has negative activations behind the cut, which Grad-CAM++ does not reckon with.
SIGNED = ("convnext_tiny", "efficientnet_b0", "mobilenet_v3_large", "swin_t", "vit_small_patch16")


@pytest.mark.slow
@pytest.mark.parametrize("arch", small.SHIPPED)
def test_every_architecture_has_maps(arch):
    """The class activation maps of all; the methods that only need logits know nothing of architectures."""
    network = Network(models.create(arch, conv_impl="native", rngs=nnx.Rngs(0)))
    image = np.repeat(np.random.default_rng(0).random((1, 64, 64, 1), np.float32), 3, axis=0)
    # Of signed activations a class may have no place that speaks for it; not all three of them.
    given = (network.cut(network.last_map), *network.init(), image, np.arange(3, dtype=np.int32))
    for name in ("grad_cam", "grad_cam++"):
        found = explainer(name)(*given)
        assert found.shape == (3, 64, 64) and found.dtype == jnp.float32
        assert np.isfinite(found).all() and found.min() >= 0
        assert np.ptp(found) > 0 or (name == "grad_cam++" and arch in SIGNED)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arch",
    [
        "convnext_tiny",
        "densenet121",
        "efficientnet_b0",
        "efficientnet_lite0",
        "resnet18",
        "swin_t",
        "vgg16_bn",
        "vit_small_patch16",
    ],
)
def test_every_kind_of_architecture_has_every_map(arch):
    network = Network(models.create(arch, conv_impl="native", rngs=nnx.Rngs(0)))
    image = np.repeat(np.random.default_rng(0).random((1, 64, 64, 1), np.float32), 3, axis=0)
    # Of signed activations a class may have no place that speaks for it; not all three of them.
    given = (network.cut(network.last_map), *network.init(), image, np.arange(3, dtype=np.int32))
    for name in EXPLAINERS:
        found = explainer(name, **({"patch": 32, "stride": 32} if name == "occlusion" else {}))(*given)
        assert found.shape == (3, 64, 64) and np.isfinite(found).all()
        assert np.any(found) or (name == "grad_cam++" and arch in SIGNED)
