"""Non-local means, wavelets and total variation: against scikit-image called plainly, and what a denoiser promises."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle, denoise_wavelet

from data_prep.denoise.registry import DENOISERS, DenoiseSpec
from osteojax.errors import UserError

SIGMA = 12.0
CLASSICAL = ("nl_means", "wavelet", "total_variation")


def film(shape=(96, 80), seed=0):
    """Clean and noisy grey levels."""
    rng = np.random.default_rng(seed)
    clean = 128 + 500 * gaussian_filter(rng.normal(size=shape), 5)
    return clean, (clean + rng.normal(0, SIGMA, shape)).astype(np.float32)


# In the units of the image, with the weights that its documentation has for sigma; 64 pixels are three levels of sym4.
PLAIN = {
    "nl_means": lambda x: denoise_nl_means(x, 7, 11, h=0.8 * SIGMA, sigma=SIGMA, fast_mode=True),
    "wavelet": lambda x: denoise_wavelet(x, sigma=SIGMA, wavelet="sym4", wavelet_levels=3),
    "total_variation": lambda x: denoise_tv_chambolle(x, weight=SIGMA),
}


@pytest.mark.parametrize("name", CLASSICAL)
def test_is_what_scikit_image_does_in_the_units_of_the_image(name):
    clean, noisy = film()
    found = DenoiseSpec.of(name, {})(noisy, SIGMA)
    np.testing.assert_allclose(found, PLAIN[name](noisy.astype(np.float64)), atol=2e-3)
    assert np.square(found - clean).mean() < 0.35 * np.square(noisy - clean).mean()


@pytest.mark.parametrize("name", CLASSICAL)
def test_units_and_offset_change_nothing_else(name):
    _, noisy = film()
    denoise = DenoiseSpec.of(name, {})
    moved = denoise(noisy * np.float32(257) + np.float32(3000), SIGMA * 257)
    np.testing.assert_allclose((moved - 3000) / 257, denoise(noisy, SIGMA), atol=1e-2)


@pytest.mark.parametrize("name", CLASSICAL)
def test_obeys_the_sigma_that_it_is_told(name):
    _, noisy = film()
    denoise = DenoiseSpec.of(name, {})
    removed = [np.std(noisy - denoise(noisy, sigma)) for sigma in (0.0, 4.0, 12.0, 24.0)]
    assert removed[0] == 0
    assert removed == sorted(removed) and removed[1] < 0.7 * SIGMA < removed[2]


@pytest.mark.parametrize("name", CLASSICAL)
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (5, 3), (33, 140)])
def test_takes_any_shape(name, shape):
    noisy = np.random.default_rng(0).normal(100, SIGMA, shape).astype(np.float32)
    denoise = DenoiseSpec.of(name, {})
    assert denoise(noisy, SIGMA).shape == shape
    np.testing.assert_array_equal(denoise(np.full(shape, 7, np.float32), SIGMA), 7)


@pytest.mark.parametrize("name", CLASSICAL)
def test_pixels_that_are_no_numbers_are_refused(name):
    noisy = film()[1]
    noisy[3, 4] = np.nan
    with pytest.raises(UserError, match="1 of 7680 pixels are NaN or infinite, the first at row 3, column 4"):
        DenoiseSpec.of(name, {})(noisy, SIGMA)


@pytest.mark.parametrize(
    ("name", "setting", "weak", "strong"),
    [("nl_means", "strength", 0.4, 1.2), ("total_variation", "strength", 0.3, 2.0)],
)
def test_strength_is_how_much_is_removed(name, setting, weak, strong):
    _, noisy = film()
    removed = [
        np.std(noisy - DenoiseSpec.of(name, {setting: value})(noisy, SIGMA)) for value in (weak, strong)
    ]
    assert removed[0] < 0.97 * removed[1]


@pytest.mark.parametrize("settings", [{"patch_size": 3}, {"patch_distance": 3}])
def test_windows_of_non_local_means_are_settings(settings):
    _, noisy = film()
    assert (DenoiseSpec.of("nl_means", settings)(noisy, SIGMA) != PLAIN["nl_means"](noisy)).mean() > 0.9


def test_wavelets_go_down_to_the_coarsest_level():
    """Of flat noise next to nothing is left, at low frequencies neither."""
    noise = np.random.default_rng(0).normal(0, SIGMA, (256, 256)).astype(np.float32)
    assert np.std(DenoiseSpec.of("wavelet", {"wavelet": "db1"})(noise, SIGMA)) < 0.08 * SIGMA


def test_they_are_members():
    assert set(CLASSICAL) < set(DENOISERS)
