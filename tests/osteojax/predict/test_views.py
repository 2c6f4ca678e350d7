"""The views that predictions are averaged over, against scipy."""

import numpy as np
import pytest
from scipy import ndimage

from osteojax.errors import UserError
from osteojax.predict.views import VIEWS, check_views, views

IMAGES = ndimage.gaussian_filter(np.random.default_rng(0).random((2, 32, 32)), (0, 2, 2))[..., None].astype(
    np.float32
)


def test_the_first_view_is_the_image_and_the_mirror_is_exact():
    found = views(IMAGES, ["mirror"])
    assert len(found) == 2 and found[0] is IMAGES
    np.testing.assert_array_equal(found[1], IMAGES[:, :, ::-1])


def test_rotations_go_both_ways_by_five_degrees():
    _, one, other = views(IMAGES, ["rotate"])
    for found, angle in ((one, -5), (other, 5)):
        expected = ndimage.rotate(IMAGES[0, ..., 0], -angle, order=1, reshape=False, mode="nearest")
        np.testing.assert_allclose(found[0, 4:-4, 4:-4, 0], expected[4:-4, 4:-4], atol=1e-4)


def test_shifts_go_all_ways_by_three_percent():
    found = views(IMAGES, ["shift"])[1:]
    for view, step in zip(found, ((0.96, 0), (-0.96, 0), (0, 0.96), (0, -0.96)), strict=True):
        expected = ndimage.shift(IMAGES[1, ..., 0], step, order=1, mode="nearest")
        np.testing.assert_allclose(view[1, ..., 0], expected, atol=1e-5)


def test_scales_are_smaller_and_larger_about_the_centre():
    ramp = np.broadcast_to(np.arange(32.0)[None, None, :, None], (1, 32, 32, 1)).astype(np.float32)
    for view, factor in zip(views(ramp, ["scale"])[1:], (1 / 1.05, 1.05), strict=True):
        expected = np.clip(15.5 + factor * (np.arange(32) - 15.5), 0, 31)
        np.testing.assert_allclose(view[0, 7, :, 0], expected, atol=1e-4)


def test_an_unknown_view_is_told_and_no_view_counts_twice():
    assert len(views(IMAGES, VIEWS)) == len(views(IMAGES, (*VIEWS, "shift"))) == 10
    with pytest.raises(
        UserError, match="no view 'flip' to average over; there are mirror, rotate, scale, shift"
    ):
        check_views(["mirror", "flip"])
