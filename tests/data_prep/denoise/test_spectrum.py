"""The spectrum of noise from one image: right where there is noise, and no answer where there is texture."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from data_prep.denoise.spectrum import GRID, estimate_spectrum
from osteojax.errors import UserError


def radiograph(size: int = 384) -> np.ndarray:
    """A smooth object on [20, 235]."""
    y, x = np.mgrid[:size, :size] / size - 0.5
    return 60 + 100 * np.exp(-((x / 0.18) ** 4)) + 40 * np.exp(-((y / 0.4) ** 2)) + 15 * np.sin(9 * x + 4 * y)


def coloured(blur: float, shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Noise of standard deviation 1, blurred."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), blur, mode="wrap")
    return noise / noise.std()


def truth(blur: float) -> np.ndarray:
    """Its spectrum, with a mean of 1."""
    kernel = ndimage.gaussian_filter(np.pad([[1.0]], GRID // 2), blur)
    psd = np.abs(np.fft.fft2(kernel, (GRID, GRID))) ** 2
    return psd / psd.mean()


@pytest.mark.parametrize("sigma", [2.0, 10.0])
@pytest.mark.parametrize("blur", [0.0, 0.5, 0.8])
def test_sigma_and_spectrum_of_noise_are_read(blur, sigma):
    found = estimate_spectrum(radiograph() + sigma * coloured(blur, (384, 384)))
    assert found.doubt is None
    assert found.sigma == pytest.approx(sigma, rel=0.06)
    assert found.psd.shape == (GRID, GRID) and found.psd.mean() == pytest.approx(1)
    # Of single frequencies a median over 130 overlapping tiles knows a tenth; what BM3D asks for are sums of many. At
    # the lowest the estimate stays below blurred noise, by its word.
    smooth = [ndimage.uniform_filter(psd, 7, mode="wrap") for psd in (found.psd, truth(blur))]
    np.testing.assert_allclose(smooth[0], smooth[1], rtol=0.3, atol=0.03)


def test_the_choice_of_tiles_does_not_bias_what_they_hold():
    """Standard error over 4 images of some 36 thousand pixels: 0.3 %; the quietest quarter itself reads 3 % low."""
    sigmas = [estimate_spectrum(coloured(0.0, (384, 384), seed)).sigma for seed in range(4)]
    assert np.mean(sigmas) == pytest.approx(1, abs=0.012)


def test_collimation_clipping_and_edges_are_left_out():
    image = radiograph() + 10 * coloured(0.7, (384, 384))
    image[:, :100] = 0
    image[200:, 240:] = np.clip(2.5 * image[200:, 240:], 0, 255)
    image[:200, 240:] += 40 * (np.arange(144) // 12 % 2)
    found = estimate_spectrum(np.clip(image, 0, 255))
    assert found.doubt is None and found.sigma == pytest.approx(10, rel=0.1)


def texture(level: float = 4, seed: int = 0) -> np.ndarray:
    """Trabeculae: a spectrum that falls like that of bone, of strength that varies from place to place."""
    strength = level * np.exp(0.8 * coloured(25, (384, 384), seed + 1))
    return radiograph() + strength * coloured(1.0, (384, 384), seed)


def test_texture_that_varies_is_no_noise():
    found = estimate_spectrum(texture())
    assert found.doubt == "uneven" and min(found.disagreement) > 2


def test_a_texture_that_is_smoother_than_any_noise_is_none():
    assert estimate_spectrum(radiograph() + 10 * coloured(1.0, (384, 384))).doubt is None
    assert estimate_spectrum(radiograph() + 10 * coloured(1.4, (384, 384))).doubt == "texture"


def test_a_spectrum_that_goes_on_rising_is_anatomy():
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(384), np.fft.fftfreq(384)))
    white = np.random.default_rng(0).normal(size=(384, 384))
    fractal = np.fft.ifft2(np.fft.fft2(white) / np.maximum(frequency, 0.02) ** 1.5).real
    found = estimate_spectrum(120 + 10 * fractal / fractal.std())
    assert found.doubt == "texture"


def test_noise_that_only_the_highest_frequencies_hold_alone_is_extended_flat():
    found = estimate_spectrum(texture(12) + 6 * coloured(0.0, (384, 384), 7))
    assert found.doubt is None and found.disagreement[0] > 1.3
    assert found.sigma == pytest.approx(6, rel=0.12)


def test_jpeg_of_strong_noise_is_read_and_of_faint_noise_is_not():
    def compressed(sigma: float) -> np.ndarray:
        buffer = io.BytesIO()
        pixels = np.clip(np.round(radiograph() + sigma * coloured(0.5, (384, 384))), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(buffer, "JPEG", quality=75)
        return np.asarray(Image.open(buffer))

    strong = estimate_spectrum(compressed(12))
    assert strong.doubt is None and strong.sigma == pytest.approx(12, rel=0.1)
    assert estimate_spectrum(compressed(2)).doubt == "uneven"


def test_units_do_not_matter():
    image = radiograph() + 5 * coloured(0.6, (384, 384))
    found, scaled = estimate_spectrum(image), estimate_spectrum(257 * image - 1e4)
    assert scaled.sigma == pytest.approx(257 * found.sigma, rel=1e-3)
    np.testing.assert_allclose(scaled.psd, found.psd, rtol=1e-2)


@pytest.mark.parametrize("shape", [(2, 2), (31, 400), (40, 40), (64, 64)])
def test_too_little_of_an_image_gives_no_answer(shape):
    assert estimate_spectrum(coloured(0.5, shape)).doubt == "few_tiles"


@pytest.mark.parametrize("image", [np.full((200, 200), 7, np.uint8), np.tile(np.arange(200.0), (200, 1))])
def test_images_without_noise_have_none(image):
    found = estimate_spectrum(image)
    assert found.doubt is not None or found.sigma < 1e-3


def test_what_is_no_image_is_refused():
    with pytest.raises(UserError, match="noise estimation: expected a greyscale image"):
        estimate_spectrum(np.zeros((3, 4, 5)))
