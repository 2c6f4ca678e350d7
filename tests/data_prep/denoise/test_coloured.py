"""BM3D for noise of a given spectrum: variances against draws, the white case to the bit, and a gain where it knows."""

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from scipy import ndimage

from data_prep.denoise.bm3d import FAST, NP, bm3d
from data_prep.denoise.bm3d.coloured import WHITE, autocovariance, unlike
from data_prep.denoise.bm3d.transforms import block_covariance, block_transform, overlap_correlation
from osteojax.errors import UserError

GRID = 64


def kernel(name: str) -> np.ndarray:
    """What white noise is convolved with: blur, sharpening, a streak along a row."""
    point = np.pad([[1.0]], 15)
    return {
        "blur 0.5": ndimage.gaussian_filter(point, 0.5),
        "blur 1": ndimage.gaussian_filter(point, 1.0),
        "sharpened": 2 * point - ndimage.gaussian_filter(point, 1.0),
        "row": np.pad(np.ones((1, 5)), ((15, 15), (13, 13))),
    }[name]


KERNELS = ("blur 0.5", "blur 1", "sharpened", "row")


def spectrum(name: str) -> np.ndarray:
    return np.abs(np.fft.fft2(kernel(name), (GRID, GRID))) ** 2


def draw(name: str, shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Noise of standard deviation 1 and that spectrum."""
    white = np.random.default_rng(seed).normal(size=shape)
    k = kernel(name)
    return ndimage.convolve(white, k / np.sqrt((k**2).sum()), mode="wrap")


def test_white_noise_is_the_special_case_that_the_profiles_were_made_with():
    assert autocovariance(np.full((GRID, GRID), 3.7)) is WHITE
    for name in ("dct", "bior1.5"):
        forward, _ = block_transform(name, 8)
        r = overlap_correlation(forward)
        found = block_covariance(forward, WHITE, 8)
        np.testing.assert_array_equal(
            found.astype(np.float32), np.einsum("yk,xl->yxkl", r, r).astype(np.float32)
        )
    offsets = NP.hard.offsets()
    np.testing.assert_array_equal(unlike(offsets, WHITE), offsets)


@pytest.mark.parametrize("name", KERNELS)
def test_the_autocovariance_is_that_of_drawn_noise(name):
    r = autocovariance(spectrum(name))
    noise = draw(name, (512, 512))
    for m in range(min(4, len(r))):
        for n in range(min(4, len(r))):
            drawn = np.mean(noise * np.roll(noise, (m, n), (0, 1)))
            assert r[m, n] == pytest.approx(drawn, abs=0.02)
    assert r[0, 0] == pytest.approx(1)


@pytest.mark.parametrize("transform", ["dct", "bior1.5"])
@pytest.mark.parametrize("name", KERNELS)
def test_the_covariance_of_coefficients_is_that_of_drawn_blocks(name, transform):
    """Standard error of a variance over 4096 blocks that share little: 3 %."""
    forward, _ = block_transform(transform, 8)
    rho = block_covariance(forward, autocovariance(spectrum(name)), 12)
    noise = draw(name, (520, 520), seed=1)

    def coefficients(dy: int, dx: int) -> np.ndarray:
        blocks = sliding_window_view(noise, (8, 8))[dy : 512 + dy : 8, dx : 512 + dx : 8]
        return np.einsum("kp,yxpq,lq->yxkl", forward, blocks, forward, optimize=True)

    here, own = coefficients(0, 0), rho[0, 0]
    np.testing.assert_allclose(np.mean(here**2, axis=(0, 1)), own, rtol=0.12, atol=2e-3)
    for dy, dx in [(0, 3), (4, 0), (5, 8), (8, 0)]:
        drawn = np.mean(here * coefficients(dy, dx), axis=(0, 1))
        assert (np.abs(drawn - rho[dy, dx]) < 0.08 * own + 2e-3).all(), (dy, dx)


def scene(size: int) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    return 60 + 0.4 * y + 90 * (x + 0.3 * y > size / 2) + 30 * np.sin(0.5 * x) * (y > size / 2)


def psnr(clean: np.ndarray, image: np.ndarray) -> float:
    return 10 * np.log10(255**2 / np.mean((clean - image) ** 2))


def test_a_flat_spectrum_is_white_noise_to_the_bit():
    noisy = scene(64) + 20 * np.random.default_rng(0).normal(size=(64, 64))
    np.testing.assert_array_equal(bm3d(noisy, 20.0, psd=np.full((32, 32), 2.5)), bm3d(noisy, 20.0))


@pytest.mark.parametrize("profile", [FAST, NP], ids=["fast", "np"])
@pytest.mark.parametrize("name", ["blur 0.5", "blur 1", "row"])
def test_knowing_the_spectrum_is_worth_half_a_decibel(name, profile):
    clean = scene(96)
    noisy = clean + 15 * draw(name, clean.shape, seed=2)
    known = bm3d(noisy, 15.0, psd=spectrum(name), profile=profile)
    assert psnr(clean, known) > max(psnr(clean, bm3d(noisy, 15.0, profile=profile)), psnr(clean, noisy)) + 0.5


def test_only_the_shape_of_a_spectrum_counts_and_scaling_scales():
    clean = scene(64)
    noisy = clean + 15 * draw("blur 1", clean.shape)
    known = bm3d(noisy, 15.0, psd=spectrum("blur 1"))
    np.testing.assert_array_equal(bm3d(noisy, 15.0, psd=4.0 * spectrum("blur 1")), known)
    np.testing.assert_allclose(bm3d(4 * noisy, 60.0, psd=spectrum("blur 1")), 4 * known, rtol=1e-4)


def test_blocks_that_share_noise_do_not_match_for_it():
    r = autocovariance(spectrum("row"))
    kept = {tuple(offset) for offset in unlike(NP.hard.offsets(), r)}
    assert (0, 0) in kept and (0, 6) in kept and (1, 0) in kept
    assert (0, 1) not in kept and (0, -4) not in kept


@pytest.mark.parametrize(
    ("psd", "message"),
    [
        (np.ones((8, 8)), "at least 16x16"),
        (np.ones(64), "at least 16x16"),
        (np.zeros((32, 32)), "not 0 everywhere"),
        (np.full((32, 32), np.nan), "finite"),
        (-np.ones((32, 32)), "finite and >= 0"),
    ],
)
def test_what_is_no_spectrum_is_refused(psd, message):
    with pytest.raises(UserError, match=message):
        bm3d(scene(32), 5.0, psd=psd)


@pytest.mark.parametrize("backend", ["jax", "package"])
def test_other_backends_say_that_they_know_white_noise_only(backend):
    with pytest.raises(UserError, match=f"'{backend}' knows white noise only; choose 'numba'"):
        bm3d(scene(32), 5.0, psd=spectrum("blur 1"), backend=backend)


@pytest.mark.slow
@pytest.mark.parametrize("name", KERNELS)
def test_is_no_worse_than_the_package(name, monkeypatch):
    """The closed reference, given the same spectrum; on one small picture single groups count."""
    package = pytest.importorskip("bm3d")
    monkeypatch.setattr(np, "trapz", np.trapezoid, raising=False)  # it asks for the name of before NumPy 2
    clean = scene(128)
    noisy = clean + 15 * draw(name, clean.shape, seed=3)
    settings = package.BM3DProfile()
    settings.num_threads = 1
    k = kernel(name) / np.sqrt((kernel(name) ** 2).sum())
    psd = np.abs(np.fft.fft2(k, clean.shape)) ** 2 * 15.0**2 * clean.size
    theirs = package.bm3d(noisy / 255, psd / 255**2, settings).reshape(clean.shape) * 255
    assert psnr(clean, bm3d(noisy, 15.0, psd=spectrum(name), profile="np")) > psnr(clean, theirs) - 0.3
