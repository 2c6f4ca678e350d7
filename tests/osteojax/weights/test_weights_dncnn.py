"""Weights of a DnCNN: written and read again, untrusted, and KAIR's."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load, save
from scipy.ndimage import gaussian_filter

from osteojax.errors import UserError
from osteojax.files import sha256_of
from osteojax.models.dncnn import DnCNN
from osteojax.weights.dncnn import DnCNNFacts, read_dncnn, read_kair_dncnn, write_dncnn
from tests.goldens import seeded
from tests.osteojax.models.test_dncnn import images, with_random_biases

GOLDENS = Path(__file__).resolve().parents[2] / "goldens" / "dncnn.npz"
FACTS = DnCNNFacts((0.0, 55.0), {"steps": 3})


@pytest.fixture
def file(tmp_path):
    model = with_random_biases(DnCNN(4, 5, batch_norm=False, rngs=nnx.Rngs(3)))
    write_dncnn(tmp_path / "w.safetensors", model, FACTS)
    return tmp_path / "w.safetensors"


def read(path):
    return read_dncnn(path, sha256_of(path))


def test_what_is_written_is_read_again(file):
    model, facts = read(file)
    expected = with_random_biases(DnCNN(4, 5, batch_norm=False, rngs=nnx.Rngs(3)))
    np.testing.assert_array_equal(model(images()), expected(images()))
    assert facts == FACTS


def test_a_downsampling_is_read_again(tmp_path):
    model = DnCNN(3, 4, batch_norm=False, downsampling=2, rngs=nnx.Rngs(3))
    write_dncnn(tmp_path / "w.safetensors", model, FACTS)
    x = images(height=18)
    np.testing.assert_array_equal(read(tmp_path / "w.safetensors")[0](x), model(x))


def changed(file, tensors=None, **fields):
    """The file with other tensors (None leaves one out) and other metadata."""
    described = {
        "architecture": "dncnn",
        "depth": 4,
        "width": 5,
        "sigma": [0.0, 55.0],
        "training": {},
    } | fields
    kept = {k: v for k, v in (load(file.read_bytes()) | (tensors or {})).items() if v is not None}
    file.write_bytes(save(kept, {"osteojax": json.dumps(described)}))
    return file


@pytest.mark.parametrize(
    ("tensors", "fields", "message"),
    [
        ({}, {"architecture": "unet"}, "does not say that it is a DnCNN"),
        ({}, {"depth": 10**9}, "depth is 1000000000; it must be a whole number at least 2 and at most 64"),
        ({}, {"width": -1}, "width is -1"),
        ({}, {"sigma": [55.0, 0.5]}, "from 55 to 0.5, which is none"),
        ({}, {"sigma": [0.0, 0.0]}, "sigma"),
        ({}, {"surprise": 1}, "no config key"),
        ({}, {"depth": 5}, r"layers\.4\.bias is missing"),
        ({}, {"depth": 3}, r"layers\.3\.bias is strange"),
        ({}, {"width": 6}, r"layers\.0\.kernel is F32 \(3, 3, 1, 5\), and a float tensor \(3, 3, 1, 6\) is needed"),
        ({"layers.1.bias": None}, {}, r"layers\.1\.bias is missing"),
        ({"layers.1.bias": np.full(5, np.nan, np.float32)}, {}, r"layers\.1\.bias holds NaN"),
        ({"layers.1.bias": np.zeros(5, np.int32)}, {}, r"layers\.1\.bias is I32"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_one_sentence(file, tensors, fields, message):
    with pytest.raises(UserError, match=message):
        read(changed(file, tensors, **fields))


def test_another_file_of_that_name_is_refused(file):
    before = sha256_of(file)
    changed(file)
    with pytest.raises(UserError, match=f"w.safetensors has the SHA-256 .*{before[:16]}"):
        read_dncnn(file, before)


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x80\x04cos\nsystem\n"])
def test_what_is_no_weights_file_is_refused(file, content):
    file.write_bytes(content)
    with pytest.raises(UserError):
        read(file)


def test_weights_without_a_description_are_refused(file):
    file.write_bytes(save(load(file.read_bytes())))
    with pytest.raises(UserError, match="does not say that it is a DnCNN"):
        read(file)


def assert_equal_to_pytorch(path, golden):
    """Float32 sums in another order are all that may differ."""
    model = read_kair_dncnn(path)
    assert (model.depth, model.width) == (17, 64)
    expected = np.load(GOLDENS)[golden]
    found = np.asarray(model(seeded.noisy()[None, ..., None]))[0, ..., 0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    return model


def test_generated_weights_of_kairs_layout_are_pytorchs_network(tmp_path):
    path = tmp_path / "generated.safetensors"
    path.write_bytes(save(seeded.state_dict(seeded.dncnn_shapes())))
    assert_equal_to_pytorch(path, "generated")


def test_kairs_own_weights_are_pytorchs_network_and_denoise(shared):
    model = assert_equal_to_pytorch(shared / "weights" / "kair_dncnn_25.pth", "kair_25")
    rng = np.random.default_rng(0)
    clean = 0.5 + 3 * gaussian_filter(rng.normal(size=(48, 48)), 4)
    noisy = jnp.asarray(clean + rng.normal(0, 25 / 255, clean.shape), jnp.float32)
    left = np.square(model(noisy[None, ..., None])[0, ..., 0] - clean).mean()
    assert left < 0.15 * (25 / 255) ** 2


def test_another_networks_file_is_not_kairs(file):
    with pytest.raises(UserError, match="no DnCNN of KAIR's"):
        read_kair_dncnn(file)
