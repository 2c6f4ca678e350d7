"""Numbers that float32 cannot compute with: one sentence at the door of every denoiser, never a hang or a NaN."""

import subprocess
import sys
import warnings

import numpy as np
import pytest

from data_prep.decode import DecodeError
from data_prep.denoise.anscombe import (
    NoiseModel,
    anscombe,
    denoise_poisson_gaussian,
    fit_noise_model,
    inverse_anscombe,
)
from data_prep.denoise.bm3d import bm3d
from data_prep.denoise.noise import estimate_sigma
from data_prep.denoise.registry import DENOISERS, DenoiseSpec, denoiser
from data_prep.preprocess import PreprocessSpec, preprocess
from osteojax.errors import UserError


@pytest.fixture(autouse=True)
def _numpy_is_not_heard():
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        yield


def image(scale: float = 20.0) -> np.ndarray:
    return np.random.default_rng(0).normal(0, scale, (40, 36))


def with_one(value: float) -> np.ndarray:
    return np.where(np.arange(40 * 36).reshape(40, 36) == 100, value, image())


DOORS = {
    "numba": lambda z: bm3d(z, 20.0),
    "jax": lambda z: bm3d(z, 20.0, backend="jax"),
    "package": lambda z: bm3d(z, 20.0, backend="package"),
    "bm3d without noise": lambda z: bm3d(z, 0.0),
    "estimate": estimate_sigma,
    "fit": fit_noise_model,
    "poisson": lambda z: denoise_poisson_gaussian(z, bm3d, gain=1.0),
}
TOO_LARGE = {
    "1e300": (image(1e300), "scale the image down"),
    "1e39": (image(1e39), "scale the image down"),
    "a pixel of 1e39": (with_one(1e39), "scale the image down"),
    "a pixel of -1e39": (with_one(-1e39), "scale the image down"),
    "both ends of float64": (np.where(image() > 0, 1.7e308, -1.7e308), "scale the image down"),
    "both ends of float32": (
        np.where(image() > 0, 3.4e38, -3.4e38).astype(np.float32),
        "scale the image down",
    ),
    "all 1e39": (np.full((40, 36), 1e39), "scale the image down"),
    "subnormal in float64": (image(1e-315), "scale the image up"),
    "subnormal in float32": (image(1e-40).astype(np.float32), "scale the image up"),
    "a NaN": (with_one(np.nan), "1 of 1440 pixels .* row 2, column 28"),
    "an infinity": (with_one(-np.inf), "1 of 1440 pixels .* row 2, column 28"),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("case", TOO_LARGE)
def test_every_door_refuses_what_overflows(door, case):
    pixels, message = TOO_LARGE[case]
    with pytest.raises(UserError, match=message):
        DOORS[door](pixels)


@pytest.mark.parametrize("backend", ["numba", "jax"])
@pytest.mark.parametrize("sigma", [-1.0, np.nan, np.inf, -np.inf, 1e38, 1e39, 1e300, np.float64(1e300)])
def test_a_sigma_that_overflows_is_refused(backend, sigma):
    with pytest.raises(UserError, match=r"needs a sigma from 0 to 1e\+37"):
        bm3d(image(), sigma, backend=backend)


@pytest.mark.parametrize("sigma", [1e-320, 1e-45, 1e-30, 1e-3, 1e6, 1e37])
def test_any_other_sigma_gives_finite_pixels(sigma):
    """Far above the image's range everything is noise: what is left is one grey level, for the most part."""
    for pixels in (image(), np.full((20, 20), 3.0), np.full((20, 20), 1e-320), np.zeros((9, 9), np.float32)):
        found = bm3d(pixels, sigma)
        assert np.isfinite(found).all()
        assert np.ptp(found) <= np.ptp(pixels) * (1 + 1e-6)


@pytest.mark.parametrize("scale", [1e-28, 1e-20, 1e20, 1e36])
def test_within_the_limits_scaling_scales_the_result(scale):
    np.testing.assert_allclose(bm3d(image() / 20 * scale, scale), bm3d(image(), 20.0) / 20 * scale, rtol=0.02)
    assert estimate_sigma(image() / 20 * scale).sigma == pytest.approx(scale, rel=0.1)


def test_the_compiled_code_is_not_entered_with_what_it_would_loop_over_for_ever():
    """In a process of its own: nothing but its end would stop such a loop."""
    code = """
import numpy as np
from data_prep.denoise.bm3d import FAST, numba_backend
from osteojax.errors import UserError
for value in (np.nan, np.inf, -np.inf, 1e9, -3e38):
    z = np.zeros((40, 36), np.float32)
    z[3, 4] = value
    try:
        numba_backend.denoise(z, FAST)
    except UserError as error:
        print(error)
"""
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout.splitlines() == ["BM3D: pixels must be finite and within 1e+08 times sigma of 0"] * 5


def test_signal_dependent_noise_whose_parameters_overflow():
    for model in ((1e-40, 0.0, 0.0), (1e38, 0.0, 0.0), (1.0, 1e200, 0.0), (1.0, 0.0, -1e39)):
        with pytest.raises(UserError, match="Poisson-Gaussian noise: "):
            NoiseModel(*model)
    extreme = NoiseModel(1e-37, 1e37, 1e37)
    assert np.isfinite(anscombe(image(), extreme)).all()
    for call in (
        lambda: anscombe(with_one(np.nan), NoiseModel(1.0)),
        lambda: anscombe(image(1e300), NoiseModel(1e-30)),
        lambda: inverse_anscombe(with_one(np.inf), NoiseModel(1.0)),
        lambda: inverse_anscombe(image(1e200), NoiseModel(1.0)),
        lambda: denoise_poisson_gaussian(image(), bm3d, gain=1e-37, read_sigma=1e37),
        lambda: denoise_poisson_gaussian(image(), lambda z, sigma: z + np.float32(1e30), gain=1.0),
    ):
        with pytest.raises(UserError, match=r"NaN or infinity|overflows"):
            call()


@pytest.mark.parametrize("name", DENOISERS)
@pytest.mark.parametrize("noise_model", ["gaussian", "poisson"])
@pytest.mark.parametrize("case", TOO_LARGE)
def test_preparation_leaves_the_image_out_and_goes_on(name, noise_model, case):
    """DecodeError, which quarantines one image, not UserError, which stops the run."""
    spec = PreprocessSpec(denoise=DenoiseSpec.of(name, {}), noise_model=noise_model, image_size=16)
    with pytest.raises(DecodeError, match="too large or too close together") as found:
        preprocess(TOO_LARGE[case][0], spec)
    assert "1e" not in str(found.value)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda pixels: np.where(pixels > 1, np.nan, pixels),
        lambda pixels: pixels[:-1],
        lambda pixels: pixels.astype(np.float64),
    ],
    ids=["NaN", "shape", "dtype"],
)
def test_a_denoiser_that_breaks_its_promise_is_named(wrong):
    with DENOISERS.temporary():
        denoiser("broken")(lambda pixels, sigma, settings: wrong(pixels))
        with pytest.raises(ValueError, match=r"denoiser 'broken' was given float32 pixels \(40, 36\)"):
            DenoiseSpec.of("broken", {})(image().astype(np.float32), 1.0)
