"""Near duplicates: copies are found, other radiographs of the same kind are not."""

import io

import numpy as np
import pytest
from PIL import Image

from data_prep.audit.near_duplicates import NearDuplicate, find_near_duplicates, thumbnail
from data_prep.phantom import CLASS_NAMES, PhantomConfig, generate_image

CONFIG = PhantomConfig(image_size=(224, 224), seed=5)


@pytest.fixture(scope="module")
def knees():
    """Twelve patients: one anatomy template and one display, the hardest thing to tell apart."""
    return [
        255 * generate_image(CLASS_NAMES[p % 3], patient=p, config=CONFIG).noisy.astype(np.float64)
        for p in range(12)
    ]


def _jpeg(image, quality):
    stream = io.BytesIO()
    Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream)).astype(np.float64)


def _resized(image, size):
    return np.asarray(Image.fromarray(image.astype(np.float32)).resize(size, Image.Resampling.BICUBIC))


COPIES = {
    "re-encoded": lambda image: _jpeg(image, 60),
    "mirrored": lambda image: image[:, ::-1],
    "rescaled and squashed": lambda image: _resized(image, (300, 140)),
    "brighter, gamma": lambda image: 255 * (np.clip(image, 0, 255) / 255) ** 0.7,
    "cropped by a tenth": lambda image: image[10:212, 14:216],
    "cropped, mirrored, squashed, re-encoded": lambda image: _jpeg(
        _resized(image[20:205, 8:200][:, ::-1], (224, 224)), 70
    ),
}


def _found(images):
    return find_near_duplicates(np.stack([thumbnail(image) for image in images]))


@pytest.mark.parametrize("kind", COPIES)
def test_copies_are_found_and_nothing_else(knees, kind):
    found = _found([*knees, COPIES[kind](knees[3])])
    assert [{pair.part, pair.whole} for pair in found] == [{3, 12}]
    assert found[0].mirrored == ("mirrored" in kind)


def test_the_crop_is_located(knees):
    (pair,) = _found([*knees, knees[7][22:201, 40:219]])
    assert (pair.part, pair.whole, pair.mirrored) == (12, 7, False)
    # Half a pixel of the 128 that are compared.
    np.testing.assert_allclose(pair.box, (22 / 224, 40 / 224, 179 / 224, 179 / 224), atol=0.5 / 128)


def test_one_knee_of_a_radiograph_of_both(knees):
    both = np.hstack([knees[1], knees[2]])
    (pair,) = _found([both, *knees[3:], knees[2]])
    assert (pair.part, pair.whole) == (10, 0)
    np.testing.assert_allclose(pair.box, (0, 0.5, 1, 0.5), atol=0.01)


def test_known_pairs_are_not_looked_at(knees):
    thumbnails = np.stack([thumbnail(image) for image in (knees[0], knees[1], knees[0][:, ::-1])])
    assert find_near_duplicates(thumbnails, same=lambda a, b: {a, b} == {0, 2}) == []


def test_every_group_of_copies_is_joined(knees):
    found = _found([knees[0], *knees[4:8], knees[0][:, ::-1], knees[0][8:216, 8:216]])
    reached = {0}
    for _ in found:
        reached |= {i for pair in found for i in (pair.part, pair.whole) if {pair.part, pair.whole} & reached}
    assert reached == {0, 5, 6}


@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_and_flat_images(n):
    assert find_near_duplicates(np.zeros((n, 128, 128), np.uint8)) == []


def test_thumbnail_of_odd_shapes():
    assert thumbnail(np.ones((1, 7))).max() == 0
    ramp = thumbnail(np.tile(np.arange(1000.0), (33, 1)))
    assert (ramp.shape, ramp.dtype, ramp.min(), ramp.max()) == ((128, 128), np.uint8, 0, 255)
    assert (np.diff(ramp.astype(int), axis=1) >= 0).all()


def test_pairs_are_plain_values(knees):
    (pair,) = _found([knees[0], knees[0][:, ::-1]])
    assert isinstance(pair, NearDuplicate)
    assert all(type(v) is float for v in (*pair.box, pair.correlation))
