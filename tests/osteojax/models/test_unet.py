"""The U-Net against the same sums written with scipy."""

import jax
import numpy as np
import pytest
from flax import nnx
from scipy.signal import correlate

from osteojax.models.network import flat
from osteojax.models.unet import UNet


def conv(x, kernel):
    """(H, W, in) with (k, k, in, out), padded by zeros, channel by channel."""
    around = kernel.shape[0] // 2
    padded = np.pad(x, ((around, around), (around, around), (0, 0)))
    return np.stack(
        [correlate(padded, kernel[..., out], "valid")[..., 0] for out in range(kernel.shape[-1])], -1
    )


@pytest.fixture(scope="module")
def net():
    rngs = np.random.default_rng(0)
    model = UNet(3, widths=(4, 6, 8), rngs=nnx.Rngs(0))
    model.eval()
    state = nnx.state(model, (nnx.Param, nnx.BatchStat))
    nnx.update(
        model, jax.tree.map(lambda x: x + 0.1 * abs(rngs.normal(size=x.shape)).astype(np.float32), state)
    )
    return model


def test_the_answer_is_that_of_the_same_sums_in_scipy(net):
    weights = {
        k: np.asarray(v, np.float64) for k, v in flat(nnx.state(net, (nnx.Param, nnx.BatchStat))).items()
    }

    def layer(x, name):
        def of(what):
            return weights[f"{name}/{what}"]

        y = conv(x, of("kernel"))
        y = (y - of("norm/mean")) / np.sqrt(of("norm/var") + 1e-5) * of("norm/scale") + of("norm/bias")
        return np.maximum(y, 0)

    def both(x, name):
        return layer(layer(x, f"{name}/conv1"), f"{name}/conv2")

    image = np.random.default_rng(1).random((16, 24))
    # The pixels of each 2x2 block, left to right and then down.
    x = np.stack([image[a::2, b::2] for a in (0, 1) for b in (0, 1)], -1)
    fine = both(x, "down/0")
    middle = both(np.max([fine[a::2, b::2] for a in (0, 1) for b in (0, 1)], 0), "down/1")
    coarse = both(np.max([middle[a::2, b::2] for a in (0, 1) for b in (0, 1)], 0), "down/2")
    up = conv(np.kron(coarse, np.ones((2, 2, 1))), weights["shrink/0/kernel"])
    middle = both(np.concatenate([middle, up], -1), "up/0")
    up = conv(np.kron(middle, np.ones((2, 2, 1))), weights["shrink/1/kernel"])
    fine = both(np.concatenate([fine, up], -1), "up/1")
    last = conv(fine, weights["last/kernel"]) + weights["last/bias"]
    wanted = np.zeros((16, 24, 3))
    for number, (a, b) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        wanted[a::2, b::2] = last[..., 3 * number : 3 * number + 3]
    got = net(np.float32(image)[None, ..., None])[0]
    np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-3)


def test_each_image_is_answered_by_itself(net):
    images = np.random.default_rng(2).random((3, 16, 16, 1)).astype(np.float32)
    np.testing.assert_allclose(net(images)[1], net(images[1:2])[0], rtol=1e-4, atol=1e-5)


def test_the_shipped_size_is_that_of_the_docs():
    state = nnx.state(nnx.eval_shape(lambda: UNet(4, rngs=nnx.Rngs(0))), nnx.Param)
    assert sum(x.size for x in jax.tree.leaves(state)) == 450_768
