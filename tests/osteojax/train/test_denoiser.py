"""Training of a denoiser: its losses, its data, and that it resumes and is sharded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from safetensors.numpy import load_file
from scipy.ndimage import gaussian_filter

from osteojax.errors import UserError
from osteojax.files import sha256_of
from osteojax.train import denoiser
from osteojax.train.denoiser import Film, patches_of, read_denoiser_settings, supervised, sure, train_denoiser
from osteojax.weights.dncnn import GREY_LEVEL, read_dncnn

SIGMA = 25 * GREY_LEVEL


def config(**changes):
    found = ConfigDict({
        "seed": 3, "steps": 6, "sigma": (25.0, 25.0), "model": {"depth": 3, "width": 4},
        "data": {"batch_size": 8, "patch": 16}, "checkpoint_every": 2, "log_every": 2, "mesh": {"data": 1},
    })  # fmt: skip
    found.update(changes)
    return found


def films(count=3, side=40, sigma=0.0):
    rng = np.random.default_rng(0)
    clean = [0.5 + gaussian_filter(rng.normal(size=(side, side)), 4) for _ in range(count)]
    return [Film((film + rng.normal(0, sigma, film.shape)).astype(np.float32), sigma) for film in clean]


class Blur:
    """A linear denoiser, of whose error the expectation is known: a share of each pixel, and of its neighbour."""

    def residual(self, x):
        return 0.4 * x - 0.3 * jnp.roll(x, 1, 1)


def clean_batch(rows=64, side=32, sigma=SIGMA):
    rng = np.random.default_rng(2)
    image = np.stack(
        [0.5 + gaussian_filter(rng.normal(size=(side, side)), 3, mode="wrap") for _ in range(rows)]
    )
    return {"image": jnp.asarray(image[..., None], jnp.float32), "sigma": jnp.full(rows, sigma, jnp.float32)}


def error_of(estimate, sigma=SIGMA):
    """Mean squared error, from the loss in units of sigma."""
    return float(estimate) * 5 * GREY_LEVEL * (sigma + 5 * GREY_LEVEL)


def expected_error(batch):
    """Of Blur, by hand: bias squared and the variance of 0.6 n(p) + 0.3 n(q)."""
    bias = np.square(Blur().residual(batch["image"])).mean()
    return float(bias + (0.6**2 + 0.3**2) * SIGMA**2)


def test_the_supervised_loss_is_the_squared_error():
    batch = clean_batch()
    found = error_of(supervised(Blur(), batch, jax.random.key(0)))
    assert found == pytest.approx(expected_error(batch), rel=0.02)


def test_sure_estimates_it_without_the_clean_image():
    batch = clean_batch()
    estimates = []
    for seed in range(8):
        noise = SIGMA * jax.random.normal(jax.random.key(100 + seed), batch["image"].shape)
        noisy = batch | {"image": batch["image"] + noise}
        estimates.append(error_of(sure(Blur(), noisy, jax.random.key(seed))))
    assert np.mean(estimates) == pytest.approx(expected_error(batch), rel=0.02)


def test_errors_count_in_units_of_sigma():
    """A squared error of ten times as much noise weighs a tenth; below 5 grey levels not much more."""

    class Nothing:
        def residual(self, x):
            return jnp.zeros_like(x)

    for sigma in (50.0, 1.0):
        loss = supervised(Nothing(), clean_batch(sigma=sigma * GREY_LEVEL), jax.random.key(0))
        assert loss == pytest.approx(sigma**2 / (5 * (sigma + 5)), rel=0.02)


def test_patches_are_squares_of_the_films_in_all_eight_ways_and_follow_from_seed_and_step(monkeypatch):
    monkeypatch.setattr(denoiser, "_WIDENED", 0.0)
    marked = [Film(np.arange(20 * 24, dtype=np.float32).reshape(20, 24) + 1000 * i) for i in range(2)]
    settings = read_denoiser_settings(config(data={"batch_size": 64, "patch": 8}, sigma=(5.0, 50.0)))
    batch = patches_of(marked, settings)
    first, again, second = batch(0), batch(0), batch(1)
    np.testing.assert_array_equal(first["image"], again["image"])
    assert (first["image"] != second["image"]).any() and (first["sigma"] != second["sigma"]).any()
    other_seed = patches_of(
        marked, read_denoiser_settings(config(seed=4, data={"batch_size": 64, "patch": 8}))
    )
    assert (other_seed(0)["image"] != first["image"]).any()
    ways = set()
    for patch in first["image"][..., 0]:
        down, right = patch[1, 0] - patch[0, 0], patch[0, 1] - patch[0, 0]
        assert {abs(down), abs(right)} == {1, 24}
        ways.add((down, right))
    assert len(ways) == 8
    assert {int(image.min() // 1000) for image in first["image"]} == {0, 1}
    assert first["sigma"].min() >= 5 * GREY_LEVEL and first["sigma"].max() <= 50 * GREY_LEVEL


def test_the_more_noise_the_less_contrast_may_be():
    """As much less as eight sigma, a range of unclipped noise, take of it; the noise goes down with it."""
    flat = [Film(np.array([[0, 1]], np.float32).repeat(8, 0).repeat(4, 1))]
    settings = read_denoiser_settings(config(data={"batch_size": 200, "patch": 8}, sigma=(51.0, 51.0)))
    batch = patches_of(flat, settings)(0)
    contrast = np.ptp(batch["image"], axis=(1, 2, 3))
    assert contrast.max() > 0.98 and 1 / 2.6 < contrast.min() < 1 / 2.6 + 0.02
    np.testing.assert_allclose(batch["sigma"], contrast * 0.2, rtol=1e-5)
    np.testing.assert_allclose(batch["image"].mean((1, 2, 3)), 0.5, atol=1e-6)


def test_for_sure_the_noise_is_the_films_own(monkeypatch):
    monkeypatch.setattr(denoiser, "_WIDENED", 0.0)
    noisy = [Film(film.pixels, 0.01 * (i + 1)) for i, film in enumerate(films())]
    batch = patches_of(noisy, read_denoiser_settings(config(loss="sure")))(0)
    assert set(batch["sigma"].tolist()) == {float(np.float32(0.01 * i)) for i in (1, 2, 3)}


def trained(workdir, given=None, **changes):
    return load_file(train_denoiser(config(**changes), given or films(), workdir))


def equal(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("batch_norm", [pytest.param(False, marks=pytest.mark.slow), True])
def test_killed_and_started_again_it_ends_with_the_same_bits(tmp_path, monkeypatch, batch_norm):
    model = {"depth": 3, "width": 4, "batch_norm": batch_norm}
    whole = trained(tmp_path / "whole", model=model)

    def dies_at_5(films, settings):
        batches = patches_of(films, settings)
        return lambda step: batches(step) if step < 5 else (_ for _ in ()).throw(KeyboardInterrupt)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(denoiser, "patches_of", dies_at_5)
        trained(tmp_path / "killed", model=model)
    assert not (tmp_path / "killed" / denoiser.WEIGHTS).exists()
    assert equal(trained(tmp_path / "killed", model=model), whole)


@pytest.mark.slow
def test_four_devices_learn_what_one_learns(tmp_path):
    one, four = trained(tmp_path / "1"), trained(tmp_path / "4", mesh={"data": 4})
    for name in one:
        np.testing.assert_allclose(four[name], one[name], atol=1e-5)


def test_the_file_says_what_it_was_trained_with(tmp_path):
    path = train_denoiser(config(), films(), tmp_path)
    model, facts = read_dncnn(path, sha256_of(path))
    assert facts.sigma == (25.0, 25.0) and facts.training["data"]["patch"] == 16
    assert (model.depth, model.width) == (3, 4)


def left_over(path, film, seed=5):
    """Mean squared error of a trained network on a film, as a share of the noise's."""
    noisy = film.pixels + np.random.default_rng(seed).normal(0, SIGMA, film.pixels.shape).astype(np.float32)
    model, _ = read_dncnn(path, sha256_of(path))
    return float(np.square(model(noisy[None, ..., None])[0, ..., 0] - film.pixels).mean()) / SIGMA**2


@pytest.mark.slow
def test_it_learns_to_denoise_with_clean_images_and_nearly_as_well_without(tmp_path):
    changes = {
        "steps": 250, "checkpoint_every": 250, "learning_rate": 5e-3, "model": {"depth": 4, "width": 8},
        "data": {"batch_size": 32, "patch": 24},
    }  # fmt: skip
    clean = train_denoiser(config(**changes), films(40, 64), tmp_path / "clean")
    noisy = train_denoiser(config(loss="sure", **changes), films(40, 64, SIGMA), tmp_path / "noisy")
    unseen = films(41, 64)[-1]
    left = [left_over(path, unseen) for path in (clean, noisy)]
    assert left[0] < 0.08
    assert 10 * np.log10(left[1] / left[0]) < 1.0


@pytest.mark.parametrize(
    ("changes", "given", "message"),
    [
        ({"sigma": (9.0, 3.0)}, None, r"from low to high, and \(9, 3\) is not"),
        ({"sigma": (0.0, 0.0)}, None, "sigma is .* a number at least 0, a number above 0"),
        ({"sigma": ()}, None, "sigma is .*; it must be a tuple of 2"),
        ({"data": {"image_sizes": ()}}, None, r"data\.image_sizes is .*; it must be a tuple of at least 1, each item"),
        ({"data": {"image_sizes": (64, 0)}}, None, r"data\.image_sizes\[1\] is 0; it must be a whole number at least"),
        ({"data": {"image_sizes": (-64,)}}, None, r"data\.image_sizes\[0\] is -64"),
        ({"loss": "hope"}, None, "loss is 'hope'; it must be one of 'supervised', 'sure'"),
        ({"model": {"depth": 1}}, None, "model.depth is 1"),
        ({"depth": 7}, None, "no config key depth"),
        ({"data": {"patch": 64, "image_sizes": (80, 32)}}, None, r"the smallest of data.image_sizes=\(80, 32\)"),
        ({"model": {"downsampling": 4}, "data": {"patch": 18}}, None, "no multiple of model.downsampling=4"),
        ({"data": {"patch": 48}}, None, "does not fit into an image of phantom whose shorter side is 40"),
        ({}, [], "phantom has no image to learn from"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_one_sentence(tmp_path, changes, given, message):
    with pytest.raises(UserError, match=message):
        train_denoiser(config(**changes), films() if given is None else given, tmp_path / "w")
    assert not (tmp_path / "w").exists()
