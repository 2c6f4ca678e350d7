"""Overlays: a landmark comes back to where it was in the radiograph, through preprocessing itself."""

import matplotlib
import numpy as np
import pytest

from data_prep.denoise.registry import DenoiseSpec
from data_prep.preprocess import PreprocessSpec, placement, preprocess
from osteojax.explain.overlay import on_radiograph, overlay

SQUARE = (slice(0, 64), slice(0, 64))


def centre(image):
    """Centroid (row, column) of the values."""
    rows, columns = np.indices(image.shape)
    return (rows * image).sum() / image.sum(), (columns * image).sum() / image.sum()


@pytest.mark.parametrize("aspect", ["squash", "letterbox"])
@pytest.mark.parametrize("pixel_aspect", [1.0, 1.7])
@pytest.mark.parametrize("shape", [(300, 181), (123, 401), (40, 31)])
def test_a_landmark_comes_back_to_its_place(shape, aspect, pixel_aspect):
    height, width = shape
    radiograph = np.zeros(shape)
    top, left = round(0.1 * height), round(0.7 * width)
    radiograph[top : top + height // 6, left : left + width // 6] = 1000
    spec = PreprocessSpec(image_size=64, aspect=aspect, denoise=DenoiseSpec.of("none", {}))
    seen = preprocess(radiograph, spec, pixel_aspect=pixel_aspect)[..., 0]
    back = on_radiograph(seen, shape, placement(shape, spec, pixel_aspect))
    assert back.shape == shape and back.dtype == np.float32
    # The filter is symmetrical, so the centroid stays: to a tenth of a pixel of the network's.
    tolerance = max(0.1, 0.1 * max(shape) * max(pixel_aspect, 1) / 64)
    np.testing.assert_allclose(centre(back), centre(radiograph), atol=tolerance)


@pytest.mark.parametrize(
    ("shape", "pixel_aspect", "expected"),
    [
        ((300, 150), 1.0, np.s_[0:64, 16:48]),
        ((50, 200), 1.0, np.s_[24:40, 0:64]),
        ((50, 200), 2.0, np.s_[16:48, 0:64]),
        ((1000, 1), 1.0, np.s_[0:64, 31:32]),
    ],
)
def test_where_a_letterboxed_image_lies(shape, pixel_aspect, expected):
    spec = PreprocessSpec(image_size=64, aspect="letterbox", denoise=DenoiseSpec.of("none", {}))
    assert placement(shape, spec, pixel_aspect) == expected
    image = preprocess(1 + np.indices(shape).sum(0), spec, pixel_aspect=pixel_aspect)[..., 0]
    padding = np.ones((64, 64), bool)
    padding[expected] = False
    assert not image[padding].any() and image[expected].mean() > 0.4


def test_the_map_colours_and_the_rest_stays_the_radiograph():
    radiograph = np.tile(np.arange(0, 2001, 20, dtype=np.uint16), (50, 1))  # 50 x 101
    saliency = np.zeros((64, 64), np.float32)
    saliency[:, 56:] = 2.5
    saliency[:, :8] = -9
    drawn = overlay(radiograph, saliency, SQUARE)
    assert drawn.shape == (50, 101, 3) and drawn.dtype == np.uint8
    grey = np.round(255 * (radiograph / 2000))
    for channel in range(3):
        np.testing.assert_array_equal(drawn[:, :85, channel], grey[:, :85])
    top = np.asarray(matplotlib.colormaps["inferno"](1.0)[:3])
    np.testing.assert_allclose(drawn[:, -1], 255 * np.tile(0.4 + 0.6 * top, (50, 1)), atol=1)


def test_a_stronger_map_covers_more():
    saliency = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (64, 1))
    drawn = overlay(np.eye(64, dtype=np.uint8), saliency, SQUARE).astype(int)
    # The difference that the radiograph itself makes to a pixel shrinks from 255 to 40 % of that.
    white = drawn[np.arange(64), np.arange(64), 2]
    black = np.roll(drawn, 1, axis=0)[np.arange(64), np.arange(64), 2]
    np.testing.assert_allclose(white - black, 255 * (1 - 0.6 * np.linspace(0, 1, 64)), atol=1.5)


def test_a_network_that_looks_at_the_padding_leaves_the_bone_grey():
    saliency = np.ones((64, 64), np.float32)
    saliency[:, :10] = 100
    drawn = overlay(np.ones((80, 40), np.int16), saliency, np.s_[0:64, 16:48]).astype(int)
    assert drawn.max() <= 3


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_map_without_anything_positive_leaves_the_radiograph_as_it_is(value):
    radiograph = np.array([[0, 128], [255, 64]], np.uint8)
    drawn = overlay(radiograph, np.full((64, 64), value, np.float32), SQUARE)
    np.testing.assert_array_equal(drawn, np.repeat(radiograph[..., None], 3, -1))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_any_dtype_is_stretched_from_black_to_white(dtype):
    ends = (-1e30, 1e30) if np.issubdtype(dtype, np.floating) else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    drawn = overlay(np.array([ends], dtype), np.zeros((64, 64), np.float32), SQUARE)
    np.testing.assert_array_equal(drawn, [[[0] * 3, [255] * 3]])
