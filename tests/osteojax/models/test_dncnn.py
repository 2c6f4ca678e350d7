"""DnCNN: against convolutions written out plainly, and with its batch norm merged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from osteojax.models.dncnn import DnCNN


def images(count=2, height=17, width=14, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(0.5, 0.2, (count, height, width, 1)), jnp.float32)


def plain(layers, image):
    """The paper's network of (kernel, bias) in double precision, tap by tap; image (height, width)."""
    height, width = image.shape
    h = image[..., None].astype(np.float64)
    for index, (kernel, bias) in enumerate(layers):
        around = np.pad(h, ((1, 1), (1, 1), (0, 0)))
        taps = [(dy, dx) for dy in range(3) for dx in range(3)]
        h = bias + sum(around[dy : dy + height, dx : dx + width] @ kernel[dy, dx] for dy, dx in taps)
        if index < len(layers) - 1:
            h = np.maximum(h, 0)
    return image - h[..., 0]


def with_random_biases(model, seed=1):
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        layer.bias[...] = jnp.asarray(rng.normal(0, 0.1, layer.bias.shape), jnp.float32)
    return model


def test_is_the_image_less_what_plain_convolutions_make_of_it():
    model = with_random_biases(DnCNN(4, 5, batch_norm=False, rngs=nnx.Rngs(0)))
    x = images()
    layers = [(np.asarray(layer.kernel), np.asarray(layer.bias)) for layer in model.layers]
    expected = np.stack([plain(layers, np.asarray(image[..., 0])) for image in x])
    np.testing.assert_allclose(model(x)[..., 0], expected, atol=1e-5)


def test_downsampled_it_is_convolutions_of_every_second_pixels_images():
    model = with_random_biases(DnCNN(3, 5, batch_norm=False, downsampling=2, rngs=nnx.Rngs(0)))
    x = images(height=18)
    parts = jnp.concatenate([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], -1)
    for index, layer in enumerate(model.layers):
        parts = layer(parts) if index == 2 else jax.nn.relu(layer(parts))
    found = model.residual(x)
    for n, (i, j) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        np.testing.assert_allclose(found[:, i::2, j::2, 0], parts[..., n], atol=1e-6)


def test_batch_norm_stands_in_all_layers_but_the_first_and_the_last():
    model = DnCNN(6, 4, rngs=nnx.Rngs(0))
    assert [hasattr(layer, "norm") for layer in model.layers] == [False, True, True, True, True, False]


def test_merged_it_is_the_same_function():
    model = DnCNN(5, 6, rngs=nnx.Rngs(0))
    for seed in range(4):  # the statistics move, scale and bias too
        model(images(seed=seed))
    for layer in model.layers[1:-1]:
        layer.norm.scale[...] = jnp.linspace(-1, 2, 6)
        layer.norm.bias[...] = jnp.linspace(0.3, -0.2, 6)
    model.eval()
    merged, x = model.merged(), images(seed=9)
    assert not merged.batch_norm and merged.depth == 5 and merged.width == 6
    np.testing.assert_allclose(merged(x), model(x), atol=1e-5)
    assert np.abs(merged(x) - x).max() > 0.01


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_a_pixel_depends_on_others_as_far_away_as_there_are_layers(depth):
    model = DnCNN(depth, 4, batch_norm=False, rngs=nnx.Rngs(0))
    slope = jax.grad(lambda x: model(x)[0, 10, 10, 0])(images(1, 21, 21))[0, ..., 0]
    rows, columns = np.nonzero(np.asarray(slope))
    assert max(np.abs(rows - 10).max(), np.abs(columns - 10).max()) == depth


def test_before_training_it_is_near_the_image():
    """Residuals of the size of the images would be what the first thousand steps unlearn."""
    x = images()
    assert np.std(DnCNN(10, 32, batch_norm=False, rngs=nnx.Rngs(0)).residual(x)) < 2 * np.std(x)
