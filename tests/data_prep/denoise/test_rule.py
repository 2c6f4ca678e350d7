"""What is denoised without being told a sigma: noise that is known, to a gain, and never a picture without any."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from data_prep.denoise.registry import DENOISERS, DenoiseSpec, denoiser
from data_prep.denoise.rule import LEFT_ALONE
from data_prep.preprocess import PreprocessSpec, preprocess_native

KNOWN = PreprocessSpec(denoise=DenoiseSpec.of("bm3d", {}), denoise_when="known", image_size=32)
ALWAYS = PreprocessSpec(denoise=DenoiseSpec.of("bm3d", {}), image_size=32)


def film(size: int = 256) -> np.ndarray:
    """A shaft with an edge and trabeculae of varying strength, soft tissue around it; on [30, 225]."""
    y, x = np.mgrid[:size, :size] / size - 0.5
    bone = 90 / (1 + np.exp(60 * (np.abs(x) - 0.2)))
    lines = np.sin(0.9 * size * (x + 0.3 * y)) * np.sin(0.5 * size * (y - 0.2 * x))
    return 60 + 30 * y + bone * (1 + 0.25 * lines * np.clip(y + 0.3, 0, None))


def noise(blur: float, seed: int = 0) -> np.ndarray:
    drawn = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(256, 256)), blur)
    return drawn / drawn.std()


def eight_bit(image: np.ndarray) -> np.ndarray:
    return np.clip(np.round(image), 0, 255).astype(np.uint8)


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(eight_bit(image)).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def psnr(image: np.ndarray) -> float:
    return 10 * np.log10(255**2 / np.mean((image - film()) ** 2))


# What is made of the film, and what the rule calls it.
NOISY = {
    "white": (film() + 8 * noise(0), "white"),
    "clipped": (eight_bit(1.3 * (film() + 8 * noise(0)) - 40) / 1.3 + 40 / 1.3, "white"),
    "blur 0.5": (film() + 8 * noise(0.5), "coloured"),
    "blur 1": (film() + 8 * noise(1.0), "coloured"),
    "blur 0.7, JPEG 90": (jpeg(film() + 8 * noise(0.7), 90), "coloured"),
    "white, JPEG 75": (jpeg(film() + 12 * noise(0), 75), "coloured"),
    "Poisson": (np.random.default_rng(0).poisson(film()).astype(float), "white"),
}


@pytest.mark.parametrize("name", NOISY)
def test_known_noise_is_removed_to_a_gain(name):
    image, treatment = NOISY[name]
    done = preprocess_native(image, KNOWN)
    assert done.denoising == treatment
    assert psnr(done.denoised) > psnr(image) + 2.5
    # Where the noise is white nothing is as it was not before; where it is not, the estimate by itself is no use.
    before = preprocess_native(image, ALWAYS).denoised
    if treatment == "white":
        np.testing.assert_array_equal(done.denoised, before)
    else:
        assert psnr(done.denoised) > psnr(before) + 1


CLEAN = {
    "as it is": film(),
    "8 bits": eight_bit(film()),
    "JPEG 75": jpeg(film(), 75),
    "faint noise, JPEG 75": jpeg(film() + 1.5 * noise(0.7), 75),
    "texture": film() + 6 * np.exp(noise(12, 1)) * noise(1.0, 2),
}


@pytest.mark.parametrize("name", CLEAN)
def test_what_is_not_known_to_be_noise_is_left_as_it_is(name):
    done = preprocess_native(CLEAN[name], KNOWN)
    assert done.denoising in LEFT_ALONE
    np.testing.assert_array_equal(done.denoised, np.asarray(CLEAN[name], np.float32))


@pytest.mark.parametrize("quality", [50, 75, 90, 95])
def test_a_file_without_noise_but_that_of_jpeg_loses_nothing(quality):
    image = jpeg(film(), quality)
    assert psnr(preprocess_native(image, KNOWN).denoised) > psnr(image) - 0.1


@pytest.mark.parametrize("blur", [0.0, 0.7])
def test_noise_of_less_than_half_a_grey_level_is_left(blur):
    smooth = film() * 0 + 100 + np.mgrid[:256, :256][0] / 10
    done = preprocess_native(smooth + 0.4 * noise(blur), KNOWN)
    assert done.denoising == "left_faint"
    assert preprocess_native(smooth + 0.7 * noise(blur), KNOWN).denoising in ("white", "coloured")
    # Half a level of 255, whatever the units.
    scaled = preprocess_native(257 * (smooth + 0.4 * noise(blur)), KNOWN, 65535.0)
    assert scaled.denoising == "left_faint"


def test_a_denoiser_that_knows_white_noise_only_is_kept_off_coloured_noise():
    with DENOISERS.temporary():

        @denoiser("mean")
        def mean(pixels, sigma, settings):
            return np.full_like(pixels, pixels.mean())

        spec = PreprocessSpec(denoise=DenoiseSpec.of("mean", {}), denoise_when="known", image_size=32)
        assert preprocess_native(NOISY["blur 1"][0], spec).denoising == "left_white_only"
        assert preprocess_native(NOISY["white"][0], spec).denoising == "white"
    jax = PreprocessSpec(
        denoise=DenoiseSpec.of("bm3d", {"backend": "jax"}), denoise_when="known", image_size=32
    )
    assert preprocess_native(NOISY["blur 1"][0], jax).denoising == "left_white_only"


def test_a_given_sigma_and_a_model_are_obeyed():
    image = CLEAN["8 bits"]
    given = preprocess_native(image, dataclasses.replace(KNOWN, sigma=5.0))
    assert given.denoising == "given" and (given.denoised != image).any()
    poisson = PreprocessSpec(
        denoise=DenoiseSpec.of("bm3d", {}), denoise_when="known", noise_model="poisson", image_size=32
    )
    assert preprocess_native(NOISY["Poisson"][0], poisson).denoising == "poisson"
    assert preprocess_native(image, ALWAYS).denoising == "always"
    assert preprocess_native(image, PreprocessSpec(image_size=32)).denoising == "none"
