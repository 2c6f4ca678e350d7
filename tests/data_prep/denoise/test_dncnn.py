"""DnCNN in preparation: tiles, units, the sigma that it is told, and weights that are those of the record."""

import dataclasses
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
import pytest
from flax import nnx

from data_prep.denoise import dncnn
from data_prep.denoise.bm3d import bm3d
from data_prep.denoise.registry import DenoiseSpec
from data_prep.phantom import PhantomConfig, generate_image
from data_prep.preprocess import PreprocessSpec
from data_prep.workers import start_worker
from osteojax.errors import UserError
from osteojax.files import sha256_of
from osteojax.models.dncnn import DnCNN
from osteojax.weights.dncnn import DnCNNFacts, write_dncnn
from tests.osteojax.models.test_dncnn import with_random_biases

SHIPPED = DenoiseSpec.of("dncnn", {})


@pytest.fixture(scope="module")
def phantom():
    return generate_image("osteopenia", patient=3, config=PhantomConfig(image_size=(160, 192), seed=77))


def noisy(phantom, sigma=15.0, seed=0):
    rng = np.random.default_rng(seed)
    return (255 * phantom.clean + rng.normal(0, sigma, phantom.clean.shape)).astype(np.float32)


def other_weights(folder, sigma=(0.0, 55.0), seed=1):
    path = folder / f"other{seed}.safetensors"
    model = with_random_biases(DnCNN(3, 4, batch_norm=False, rngs=nnx.Rngs(seed)))
    write_dncnn(path, model, DnCNNFacts(sigma))
    return path


def psnr(image, phantom):
    return 10 * np.log10(255**2 / np.square(image - 255 * phantom.clean).mean())


@pytest.mark.parametrize("shape", [(1, 1), (5, 70), (64, 96), (130, 100), (97, 129)])
def test_tiles_are_the_whole(phantom, monkeypatch, shape):
    image = noisy(phantom)[: shape[0], : shape[1]]
    whole = SHIPPED(image, 15.0)
    monkeypatch.setattr(dncnn, "_TILE", 32)
    tiled = SHIPPED(image, 15.0)
    assert tiled.shape == shape
    np.testing.assert_allclose(tiled, whole, atol=2e-3)


def test_what_is_computed_at_once_is_bounded():
    seen = []

    def record(tile):
        seen.append(tile.shape)
        return tile

    image = np.random.default_rng(0).normal(size=(1000, 300)).astype(np.float32)
    np.testing.assert_array_equal(dncnn._tiled(image, record, around=10), image)
    assert set(seen) == {(276, 180)} and len(seen) == 4 * 2


def test_units_and_offset_change_nothing_else(phantom):
    image = noisy(phantom)
    moved = SHIPPED(image * np.float32(16) + np.float32(500), 15.0 * 16)
    np.testing.assert_allclose((moved - 500) / 16, SHIPPED(image, 15.0), atol=2e-3)


def test_no_noise_is_no_change(phantom):
    image = noisy(phantom)
    np.testing.assert_array_equal(SHIPPED(image, 0.0), image)
    flat = np.full((40, 50), 7, np.float32)
    np.testing.assert_array_equal(SHIPPED(flat, 15.0), flat)


def seen_by_the_network(monkeypatch, image, sigma, most):
    """Range and noise, in grey levels, of what a network that was trained for so much noise is given."""
    seen = []
    network = dncnn._Network(lambda x: seen.append(x) or x, 3, most / 255)
    monkeypatch.setattr(dncnn, "_network", lambda *_: network)
    found = SHIPPED(image, sigma)
    np.testing.assert_allclose(found, image, atol=1e-3 * max(1, sigma))
    (tile,) = seen
    assert (tile.min() + tile.max()) / 2 == pytest.approx(0.5, abs=1e-5)
    scale = np.ptp(tile) / np.ptp(image)
    return 255 * np.ptp(tile), 255 * scale * sigma


def test_the_network_sees_the_range_as_it_is_unless_there_is_more_noise_than_it_knows(monkeypatch):
    image = np.random.default_rng(0).uniform(20, 220, (48, 48)).astype(np.float32)
    image[0, :2] = 20, 220
    extent, sigma = seen_by_the_network(monkeypatch, image, 15.0, most=55.0)
    assert extent == pytest.approx(255, rel=1e-5) and sigma == pytest.approx(15 * 255 / 200, rel=1e-5)
    assert seen_by_the_network(monkeypatch, image, 80.0, most=55.0)[1] == pytest.approx(55, rel=1e-5)


def test_a_pixel_is_changed_by_three_sigma_at_most(phantom, monkeypatch):
    """Noise is hardly ever more; a letter that the network takes for noise is."""
    image = noisy(phantom)
    network = dncnn._Network(np.zeros_like, 3, 55 / 255)
    monkeypatch.setattr(dncnn, "_network", lambda *_: network)
    found = SHIPPED(image, 15.0)
    changed = np.abs(found - image)
    assert changed.max() == pytest.approx(45, rel=1e-5)
    near = image < image.min() + 45
    np.testing.assert_allclose(found[near], image.min(), atol=1e-3)


def test_other_weights_are_a_setting(phantom, tmp_path):
    image = noisy(phantom)
    one, two = (DenoiseSpec.of("dncnn", {"weights": str(other_weights(tmp_path, seed=s))}) for s in (1, 2))
    assert (one(image, 15.0) != two(image, 15.0)).mean() > 0.9


def test_the_record_holds_the_hash_and_no_other_file_will_do(phantom, tmp_path):
    path = other_weights(tmp_path)
    spec = PreprocessSpec(denoise=DenoiseSpec.of("dncnn", {"weights": str(path)}))
    assert spec.to_dict()["denoise"]["settings"]["sha256"] == sha256_of(path)
    recorded = PreprocessSpec.from_json(spec.to_json())
    assert recorded == spec
    image = noisy(phantom)
    expected = recorded.denoise(image, 15.0)
    dncnn._network.cache_clear()
    path.write_bytes(other_weights(tmp_path, seed=2).read_bytes())
    with pytest.raises(UserError, match=r"other1\.safetensors has the SHA-256"):
        recorded.denoise(image, 15.0)
    # What is prepared anew takes the file that is there.
    assert (DenoiseSpec.of("dncnn", {"weights": str(path)})(image, 15.0) != expected).any()
    path.unlink()
    with pytest.raises(UserError, match=r"other1\.safetensors cannot be read \(No such file"):
        PreprocessSpec.from_json(spec.to_json()).denoise(image, 15.0)
    with pytest.raises(UserError, match=r"other1\.safetensors cannot be read \(No such file"):
        DenoiseSpec.of("dncnn", {"weights": str(path)})


def test_the_shipped_weights_are_those_of_the_card():
    card = dncnn.SHIPPED.with_suffix(".md").read_text()
    assert sha256_of(dncnn.SHIPPED) in card
    assert dncnn.SHIPPED.stat().st_size < 2**20


def test_pixels_that_are_no_numbers_are_refused(phantom):
    image = noisy(phantom)
    image[3, 4] = np.inf
    with pytest.raises(UserError, match="row 3, column 4"):
        SHIPPED(image, 15.0)


@pytest.mark.slow
def test_every_worker_gives_the_same_bits(phantom):
    image = noisy(phantom)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=spawn, initializer=start_worker) as pool:
        found = list(pool.map(partial(SHIPPED, sigma=15.0), [image] * 4))
    for other in found:
        np.testing.assert_array_equal(other, SHIPPED(image, 15.0))


def test_an_accelerator_is_the_main_processes():
    accelerated = DenoiseSpec.of("dncnn", {"device": "accelerator"})
    assert accelerated.in_parent and not SHIPPED.in_parent


def test_the_accelerator_agrees(phantom):
    accelerated = DenoiseSpec.of("dncnn", {"device": "accelerator"})
    image = noisy(phantom)
    np.testing.assert_allclose(accelerated(image, 15.0), SHIPPED(image, 15.0), atol=2e-3)


def test_on_the_noise_of_the_phantom_the_shipped_weights_are_as_good_as_bm3d():
    """Within 0.3 dB of profile np, which is told the noise's true sigma; at the size of the training's phantoms."""
    phantom = generate_image("healthy", patient=1, config=PhantomConfig(seed=77))
    exposed = (255 * phantom.noisy).astype(np.float32)
    sigma = float(np.std(exposed - 255 * phantom.clean))
    found, peer = SHIPPED(exposed, sigma), bm3d(exposed, sigma, profile="np")
    assert psnr(found, phantom) > psnr(exposed, phantom) + 5
    assert psnr(found, phantom) > psnr(peer, phantom) - 0.3


@pytest.mark.parametrize("settings", [{"weights": 3}, {"device": "abacus"}, {"profile": "np"}])
def test_wrong_settings_are_one_sentence(settings):
    with pytest.raises(UserError, match=r"denoise\.(weights|device|profile)"):
        DenoiseSpec.of("dncnn", settings)


def test_settings_are_filled_in_once():
    settings = dncnn.DnCNNSettings()
    assert dataclasses.replace(settings) == settings and settings.sha256 == sha256_of(dncnn.SHIPPED)
