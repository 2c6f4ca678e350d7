"""The generalised Anscombe transform against Monte Carlo, its inverse against the expectation, its fit
against truth."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import integrate, stats

from data_prep.denoise.anscombe import (
    NoiseModel,
    anscombe,
    denoise_poisson_gaussian,
    expected_anscombe,
    fit_noise_model,
    inverse_anscombe,
)
from osteojax.errors import UserError


def radiograph(size: int = 256) -> np.ndarray:
    """A bright shaft with a textured end on a dark ground, on [0, 1]; a third of it gets hardly any
    quanta."""
    y, x = np.mgrid[:size, :size] / size - 0.5
    soft = 0.35 * np.exp(-((x / 0.35) ** 4))
    bone = 0.5 * np.exp(-((x / (0.13 + 0.08 * (y > 0.1) * (y - 0.1) / 0.4)) ** 6))
    texture = 0.04 * np.sin(60 * x + 25 * y) * (y > 0) * (bone > 0.2)
    return np.clip(soft + bone + texture + 0.02, 0, 1)


def draw(expected: np.ndarray, model: NoiseModel, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    gaussian = rng.normal(model.offset, model.read_sigma, expected.shape)
    return model.gain * rng.poisson(expected) + gaussian


def psnr(image, truth, peak):
    return 10 * np.log10(peak**2 / np.mean((image - truth) ** 2))


@pytest.mark.parametrize("s", [0.0, 0.02, 0.6, 4.0])
def test_the_quadrature_agrees_with_adaptive_integration(s):
    """Independent: scipy's adaptive integration over the noise, summed over scipy's Poisson law."""

    def transformed(g, count):
        return (
            2 * max(count + s * g + 0.375 + s * s, 0) ** 0.5 * math.exp(-g * g / 2) / math.sqrt(2 * math.pi)
        )

    for x in (0.0, 0.3, 6.0):
        counts = np.arange(int(x + 12 * x**0.5) + 9)
        kinks = [max(-12.0, -(c + 0.375 + s * s) / s) if s else -12.0 for c in counts]
        at_count = [
            integrate.quad(transformed, k, 12, args=(c,), epsabs=1e-10)[0]
            for c, k in zip(counts, kinks, strict=True)
        ]
        expected = stats.poisson.pmf(counts, x) @ at_count
        assert expected_anscombe(np.array([x]), s)[0] == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize(
    "model", [NoiseModel(1.0), NoiseModel(0.02, 0.05, 0.3), NoiseModel(7.0, 30.0, 100.0)]
)
def test_the_inverse_is_unbiased_on_drawn_noise(model):
    """The mean of many transformed draws, inverted, is the expected pixel value: what a perfect denoiser
    gives."""
    draws = 400_000
    for quanta in (0.5, 2.0, 10.0, 80.0):
        stabilised = anscombe(draw(np.full(draws, quanta), model), model)
        recovered = inverse_anscombe(stabilised.mean(), model)
        truth = model.gain * quanta + model.offset
        standard_error = model.gain * (quanta + (model.read_sigma / model.gain) ** 2) ** 0.5 / draws**0.5
        assert abs(recovered - truth) < 6 * standard_error + 1e-3 * model.gain


def test_the_algebraic_inverse_would_be_biased():
    """What the exact inverse is for: without it a dark area at two quanta comes out a tenth too dark."""
    mean = expected_anscombe(np.array([2.0]), 0.0)[0]
    assert inverse_anscombe(mean, NoiseModel(1.0)) == pytest.approx(2.0, abs=1e-4)
    assert (mean / 2) ** 2 - 3 / 8 < 1.8


@pytest.mark.parametrize("s", [0.0, 0.5, 3.0, 25.0, 60.0])
def test_round_trip_through_the_expectation_within_a_thousandth_of_a_quantum(s):
    """Across the end of the table (1000 quanta) too: interpolation and asymptote meet."""
    x = np.concatenate([np.linspace(0, 5, 31), np.geomspace(5, 5000, 60)])
    np.testing.assert_allclose(inverse_anscombe(expected_anscombe(x, s), NoiseModel(1.0, s)), x, atol=1e-3)


@pytest.mark.parametrize(
    ("gain", "read_sigma", "offset"), [(1.0, 0.0, 0.0), (3.0, 2.0, 0.0), (0.5, 1.0, 64.0)]
)
def test_the_transform_stabilises_the_variance(gain, read_sigma, offset):
    model = NoiseModel(gain, read_sigma, offset)
    for quanta in (4.0, 20.0, 300.0):
        transformed = anscombe(draw(np.full(200_000, quanta), model), model)
        # One up to O(1 / quanta^2): at 4 quanta it 1.03 with little read-out.
        assert transformed.std() == pytest.approx(1.0, abs=0.04)


def test_values_below_every_expectation_map_to_the_offset_and_order_is_kept():
    model = NoiseModel(2.0, 1.0, 10.0)
    d = np.linspace(-5, 90, 2000)
    restored = inverse_anscombe(d, model)
    assert restored[0] == 10.0
    assert (np.diff(restored) >= 0).all()
    assert restored.shape == d.shape


@settings(max_examples=20, deadline=None)
@given(gain=st.floats(1e-3, 1e3), ratio=st.floats(0, 20), offset=st.floats(-100, 100))
def test_units_do_not_matter(gain, ratio, offset):
    quanta = np.array([0.0, 1.0, 17.5, 900.0])
    model = NoiseModel(gain, ratio * gain, offset)
    in_quanta = NoiseModel(1.0, (ratio * gain) / gain)
    np.testing.assert_allclose(
        anscombe(gain * quanta + offset, model), anscombe(quanta, in_quanta), rtol=1e-6, atol=1e-5
    )


@pytest.mark.parametrize(
    "model", [NoiseModel(1.0), NoiseModel(3.0, 5.0), NoiseModel(2.0, 0.0, 50.0), NoiseModel(0.01, 0.02)]
)
def test_the_fit_recovers_the_model_that_drew_the_image(model):
    z = draw(40 * radiograph(512), model)
    fitted = fit_noise_model(z)
    mean = model.gain * np.array([4.0, 15.0, 30.0]) + model.offset
    np.testing.assert_allclose(fitted.variance(mean), model.variance(mean), rtol=0.06)
    assert fitted.gain == pytest.approx(model.gain, rel=0.06)


def test_the_fit_ignores_collimation_and_burnt_out_areas():
    z = draw(40 * radiograph(512), NoiseModel(2.0, 3.0))
    z[:, :60] = 0.0
    z[400:] = np.minimum(z[400:] + 200, 120)
    assert fit_noise_model(z).gain == pytest.approx(2.0, rel=0.08)


def test_the_fit_ignores_tiles_full_of_edges():
    """Stripes over 6 % of the tiles: their detail is no noise, and a mean would take it for some (gain 3)."""
    y, x = np.mgrid[:512, :512]
    tiles = (x // 16 % 8 == 2) & (y // 16 % 2 == 0)
    clean = 40 * radiograph(512) + 60 * (tiles & ((x + 2 * y) // 5 % 2 == 0))
    assert fit_noise_model(draw(clean, NoiseModel(2.0))).gain == pytest.approx(2.0, rel=0.15)


def _blur_denoiser(image, sigma):
    from skimage.restoration import denoise_tv_chambolle

    return denoise_tv_chambolle(image, weight=1.2 * sigma)


@pytest.mark.parametrize("gain", [1.0, None])
def test_poisson_noise_is_removed_better_through_the_transform(gain):
    peak = 20
    truth = peak * radiograph()
    noisy = draw(truth, NoiseModel(1.0))
    through = denoise_poisson_gaussian(noisy, _blur_denoiser, gain=gain)
    one_sigma = _blur_denoiser(noisy.astype(np.float32), np.sqrt(np.mean(truth)))
    assert through.dtype == np.float32
    assert psnr(through, truth, peak) > psnr(noisy, truth, peak) + 10
    assert psnr(through, truth, peak) > psnr(one_sigma, truth, peak) + 0.5


def test_the_denoiser_is_told_sigma_one_and_given_what_the_transform_gives():
    seen = {}

    def denoiser(image, sigma):
        seen.update(image=image, sigma=sigma)
        return image

    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    result = denoise_poisson_gaussian(image, denoiser, gain=2.0, read_sigma=1.0, offset=1.0)
    assert seen["sigma"] == 1.0
    np.testing.assert_allclose(seen["image"], anscombe(image, NoiseModel(2.0, 1.0, 1.0)), rtol=1e-6)
    assert result.shape == image.shape


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: NoiseModel(0.0), "gain must be"),
        (lambda: NoiseModel(1.0, -1.0), "read_sigma must be"),
        (lambda: NoiseModel(1.0, 0.0, np.nan), "offset must be"),
        (lambda: fit_noise_model(np.zeros((9, 9, 3))), "greyscale"),
        (lambda: fit_noise_model(np.zeros((3, 3))), "0 tiles"),
        (lambda: fit_noise_model(np.full((64, 64), np.nan)), "NaN"),
        (lambda: fit_noise_model(np.full((512, 512), 7)), "0 tiles"),
        (lambda: fit_noise_model(draw(40 - 40 * radiograph(512), NoiseModel(1.0)) * -1.0), "does not grow"),
        (lambda: denoise_poisson_gaussian(np.full((4, 4), np.inf), None), "NaN or infinite"),
        (lambda: denoise_poisson_gaussian(np.ones((4, 4)), None, read_sigma=2.0), "need gain"),
    ],
)
def test_bad_input_is_refused_in_one_line(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_fit_on_a_real_radiograph(shared):
    clean = np.asarray(Image.open(shared / "data" / "fullres" / "OP64.jpg").convert("L"), float)
    fitted = fit_noise_model(draw(clean / clean.max() * 20, NoiseModel(1.0)))
    assert fitted.gain == pytest.approx(1.0, rel=0.05)
    assert fitted.variance(np.array([10.0]))[0] == pytest.approx(10.0, rel=0.05)
