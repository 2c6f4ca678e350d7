"""The checks of maps on arrays and networks whose answer is known."""

import functools

import numpy as np
import pytest
from networks import Explained, model
from scipy.ndimage import gaussian_filter
from scipy.stats import rankdata
from skimage.metrics import structural_similarity

from osteojax import models
from osteojax.explain.registry import EXPLAINERS
from osteojax.explain.sanity import (
    cascading_randomisation,
    deletion_and_insertion,
    pointing,
    removal_ranks,
    resemblance,
)
from osteojax.models.network import Network

RNG = np.random.default_rng(0)


# Randomisation of the parameters.

SHALLOW = ("stem", "stage1", "head")
TRAINED = ({f"{part}/kernel": 1.0 for part in SHALLOW}, {"stem/norm/mean": 2.0, "stage1/norm/mean": 2.0})
FRESH = tuple(dict.fromkeys(tree, 0.0) for tree in TRAINED)


def test_parts_are_drawn_anew_one_by_one_from_the_head_down_with_their_statistics():
    seen = []

    def explain(params, stats):
        seen.append([path for tree in (params, stats) for path, value in tree.items() if value == 0.0])
        return np.ones((1, 8, 8), np.float32)

    found = cascading_randomisation(explain, TRAINED, FRESH, SHALLOW)
    assert [r.parts for r in found] == [("head",), ("stage1", "head"), ("stem", "stage1", "head")]
    every = ["stem/kernel", "stage1/kernel", "head/kernel", "stem/norm/mean", "stage1/norm/mean"]
    assert seen == [[], ["head/kernel"], ["stage1/kernel", "head/kernel", "stage1/norm/mean"], every]


def test_resemblance_is_the_correlation_of_ranks_and_scikit_images_ssim():
    a, b = RNG.random((2, 2, 9, 12)).astype(np.float32)
    a[0, :4] = 0  # ties
    spearman, ssim = resemblance(a, b)
    for i in range(2):
        expected = np.corrcoef(rankdata(a[i]), rankdata(b[i]))[0, 1]
        assert spearman[i] == pytest.approx(expected, abs=1e-9)
        scaled = [(m - m.min()) / (m.max() - m.min()) for m in (a[i].astype(float), b[i].astype(float))]
        assert ssim[i] == pytest.approx(structural_similarity(*scaled, data_range=1), abs=1e-9)


def test_resemblance_knows_neither_scale_nor_offset_of_a_map():
    a = RNG.random((1, 8, 8)).astype(np.float32)
    for other, sign in ((3 * a + 1, 1), (-a, -1)):
        assert resemblance(a, other)[0] == pytest.approx(sign, abs=1e-6)
    assert resemblance(a, 3 * a + 1)[1] == pytest.approx(1, abs=1e-4)


def test_a_map_that_vanishes_resembles_nothing_and_a_constant_one_cannot_be_asked():
    a, nothing = RNG.random((1, 8, 8)), np.zeros((1, 8, 8))
    assert resemblance(a, nothing)[0] == 0
    assert np.isnan(resemblance(nothing, a)[0])
    assert resemblance(nothing, nothing)[1] == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["grad_cam", "integrated_gradients"])
def test_maps_of_a_network_change_with_its_parts_and_a_picture_of_the_image_does_not(name):
    given = Explained(model(hidden=True), batch=3)
    trained, fresh = (given.params, given.stats), Network(model(hidden=True, seed=1)).init()
    explain = EXPLAINERS.bind(name, {"steps": 8}, {}, "explain")
    maps = functools.partial(_of, explain, given)
    found = cascading_randomisation(maps, trained, fresh, models.STAGES)
    assert len(found) == 6 and found[-1].spearman.shape == (3,)
    assert max(np.abs(r.spearman).mean() for r in found) < 0.9
    again = cascading_randomisation(maps, trained, fresh, models.STAGES)
    np.testing.assert_array_equal(found[2].spearman, again[2].spearman)
    edges = cascading_randomisation(lambda *_: given.image[..., 0], trained, fresh, models.STAGES)
    assert min(r.spearman.min() for r in edges) > 0.999


def _of(explain, given, params, stats):
    return explain(given.cut, params, stats, given.image, given.label)


# Deletion and insertion.

SIDE = 16
SQUARE = np.s_[4:12, 8:16]  # a quarter of the image


def forward(image):
    """Logits whose softmax is (m, 1 - m), m the mean of the square: the network that sees nothing else."""
    m = image[(slice(None), *SQUARE, 0)].mean((1, 2), dtype=np.float64)
    m = np.clip(m, 1e-12, 1 - 1e-12)
    return np.stack([np.log(m), np.log(1 - m)], -1)


def bright_square(batch=1):
    image = np.zeros((batch, SIDE, SIDE, 1), np.float32)
    image[(slice(None), *SQUARE)] = 1
    return image, np.zeros(batch, np.int32)


def test_curves_of_the_perfect_map_fall_and_rise_in_the_first_quarter():
    image, label = bright_square()
    found = deletion_and_insertion(forward, image, label, image[..., 0], steps=8).of_map
    np.testing.assert_allclose(found.shares, np.arange(9) / 8)
    np.testing.assert_allclose(found.deletion, [[1, 0.5, 0, 0, 0, 0, 0, 0, 0]], atol=1e-6)
    assert found.deletion_area == pytest.approx([(0.5 * 1 + 0.5) / 8], abs=1e-6)
    blurred = found.insertion[0, 0]
    assert blurred == pytest.approx(gaussian_filter(image[0, ..., 0], SIDE * 5 / 224)[SQUARE].mean())
    assert blurred < found.insertion[0, 1] < 1
    np.testing.assert_allclose(found.insertion[0, 2:], 1, atol=1e-6)
    expected = ((blurred + 1) / 2 + found.insertion[0, 1] + 6) / 8
    assert found.insertion_area == pytest.approx([expected], abs=1e-6)


def test_curves_of_the_worst_map_move_in_the_last_quarter():
    image, label = bright_square()
    found = deletion_and_insertion(forward, image, label, -image[..., 0], steps=4).of_map
    np.testing.assert_allclose(found.deletion, [[1, 1, 1, 1, 0]], atol=1e-6)
    np.testing.assert_allclose(found.insertion[0, :4], found.insertion[0, 0], atol=1e-6)
    assert found.insertion[0, 4] == pytest.approx(1, abs=1e-6)


def test_a_random_order_is_half_way():
    image, label = bright_square()
    found = deletion_and_insertion(forward, image, label, image[..., 0], steps=16).of_chance
    # A share s of the square's 64 pixels has gone after a share s of all: 1 - s, give or take 0.06 at s = 0.5.
    np.testing.assert_allclose(found.deletion[0], 1 - found.shares, atol=0.2)
    assert found.deletion_area == pytest.approx([0.5], abs=0.08)


def test_a_constant_map_takes_pixels_in_random_order_not_in_reading_order():
    image, label = bright_square()
    image[:] = 0
    image[:, 8:] = 1  # below the middle: in reading order the last to go
    found = deletion_and_insertion(forward, image, label, np.zeros((1, SIDE, SIDE), np.float32), steps=4)
    assert found.of_map.deletion[0, 2] == pytest.approx(0.25, abs=0.1)


def test_the_class_asked_for_is_followed():
    image, label = bright_square()
    found = deletion_and_insertion(forward, image, label + 1, image[..., 0], steps=4).of_map
    np.testing.assert_allclose(found.deletion, [[0, 1, 1, 1, 1]], atol=1e-6)


def test_the_seed_determines_the_curves_and_the_batch_does_not():
    image, label = bright_square(3)
    image = image * RNG.random(image.shape, np.float32)
    maps = np.round(RNG.random((3, SIDE, SIDE)), 1).astype(np.float32)

    def curves(rows, seed):
        found = deletion_and_insertion(forward, image[rows], label[rows], maps[rows], steps=4, seed=seed)
        return np.stack([found.of_map.deletion, found.of_chance.deletion])

    everything = curves(slice(None), 0)
    np.testing.assert_array_equal(everything, curves(slice(None), 0))
    np.testing.assert_array_equal(everything[:, 2:], curves(slice(2, 3), 0))
    for of_map, other in zip(everything, curves(slice(None), 1), strict=True):
        assert np.abs(of_map - other).max() > 1e-3


def test_cells_go_whole_by_their_mean():
    values = np.array([[[4, 0, 1, 1, 2, 2], [0, 4, 1, 9, 2, 2]]], np.float32)
    expected = [
        [[1, 1, 0, 0, 2, 2]] * 2
    ]  # means of 2, 3 and 2: the first and last in an order that the seed draws
    found = removal_ranks(values, 2, seed=0)
    np.testing.assert_array_equal(np.sort(found[0, 0, ::2]), [0, 1, 2])
    assert found[0, 0, 2] == 0 and (found[:, :, ::2] == found[:, :, 1::2]).all()
    assert any((removal_ranks(values, 2, seed=seed) == expected).all() for seed in range(10))
    with pytest.raises(ValueError, match="cells of 4 pixels do not fill 2 x 6"):
        removal_ranks(values, 4, seed=0)


# The pointing game.


def test_pointing_by_hand():
    maps = np.zeros((5, 4, 5), np.float32)
    mask = np.zeros((5, 4, 5), bool)
    mask[:, 1:3, 1:3] = True  # 4 of 20
    maps[0, 1, 2], maps[0, 0, 0] = 3, 1  # highest inside, a quarter outside
    maps[1, 1, 2], maps[1, 3, 4] = 1, 3  # the other way round
    maps[2] = 0  # nothing
    maps[3, 1, 1], maps[3, 0, 4] = 2, 2  # two highest
    maps[4], maps[4, 0, 0] = -1, 0  # nothing positive, one highest
    found = pointing(maps, mask)
    np.testing.assert_allclose(found.hits, [1, 0, 0.2, 0.5, 0])
    np.testing.assert_allclose(found.mass, [0.75, 0.25, 0.2, 0.5, 0.2])
    np.testing.assert_allclose(found.chance, 0.2)


def test_what_speaks_against_the_class_is_no_mass():
    maps = np.array([[[2, -6], [2, 0]]], np.float32)
    assert pointing(maps, np.array([[[True, True], [False, False]]])).mass == pytest.approx([0.5])
