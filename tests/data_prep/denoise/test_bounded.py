"""Bounded BM3D: its regions, and that nothing is matched beyond them."""

import numpy as np
import pytest

from data_prep.denoise.block_matching import BM3DSettings
from data_prep.denoise.bm3d import BOUNDED, NP, bm3d, numba_backend
from data_prep.denoise.bm3d.regions import continued, regions_of
from data_prep.denoise.bm3d.strips import strips_of
from osteojax.errors import UserError


def noisy(height=48, width=56, seed=0):
    return np.random.default_rng(seed).normal(size=(height, width)).astype(np.float32)


@pytest.mark.slow
def test_one_region_is_profile_np_to_the_bit():
    z = noisy()
    whole = numba_backend.denoise(z, NP)
    np.testing.assert_array_equal(numba_backend.denoise(z, NP, regions=np.zeros(z.shape, np.uint8)), whole)


def test_a_region_does_not_see_the_other():
    z = noisy()
    y, x = np.mgrid[:48, :56]
    regions = (x + y // 3 > 30).astype(np.uint8)
    changed = np.where(regions == 1, noisy(seed=1) + 50, z).astype(np.float32)
    one, two = (numba_backend.denoise(image, NP, regions=regions) for image in (z, changed))
    np.testing.assert_array_equal(one[regions == 0], two[regions == 0])
    assert np.isfinite(two).all()


def test_what_lies_farther_from_a_region_than_a_block_is_never_matched(monkeypatch):
    z = noisy()
    regions = (np.mgrid[:48, :56][1] > 20).astype(np.uint8)
    alone = numba_backend.denoise(z, NP, regions=regions)

    def filled(image, inside):
        found = continued(image, inside)  # noise is 0 nowhere: 0 is what lies farther
        return np.where(~inside & (found == 0), np.float32(0.1) * noisy(seed=5), found)

    monkeypatch.setattr(numba_backend, "continued", filled)
    np.testing.assert_array_equal(numba_backend.denoise(z, NP, regions=regions), alone)


def test_beyond_its_boundary_a_region_is_its_mirror_image():
    image = np.arange(20, dtype=np.float32)[None] + np.zeros((9, 1), np.float32)
    found = continued(image, image < 8)
    np.testing.assert_array_equal(found[4], [*range(8), *range(6, -1, -1), *[0] * 5])


def test_regions_are_of_like_grey_without_specks():
    clean = np.zeros((40, 60), np.float32)
    clean[:, 30:] = 100
    clean[20, 10] = 100
    np.testing.assert_array_equal(regions_of(clean, 2), np.broadcast_to(np.arange(60) >= 30, (40, 60)))
    assert not regions_of(np.ones((9, 9), np.float32), 2).any()


def test_strips_are_as_the_whole_to_the_bit(monkeypatch):
    image = (noisy(700, 40) * 10 + 100 * (np.mgrid[:700, :40][1] > 17)).astype(np.float32)
    whole = bm3d(image, 10.0, profile=BOUNDED)
    monkeypatch.setattr("data_prep.denoise.bm3d.strips_of", lambda h, w, p: strips_of(h, w, p, 1))
    np.testing.assert_array_equal(bm3d(image, 10.0, profile=BOUNDED), whole)


def test_other_backends_say_that_they_do_not_know_it():
    with pytest.raises(UserError, match="'jax' does not know the regions"):
        bm3d(noisy(), 1.0, profile="bounded", backend="jax")
    with pytest.raises(UserError, match=r"denoise\.profile=bounded needs denoise\.backend=numba"):
        BM3DSettings(profile="bounded", backend="jax")
