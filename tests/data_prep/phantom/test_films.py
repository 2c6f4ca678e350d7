"""Films to learn segmentation from: a function of seed and step, with labels that fit the picture."""

import numpy as np
import pytest

from data_prep.phantom.films import draw_films, draw_leg
from data_prep.phantom.regions import BACKGROUND, FEMUR, JOINT_SPACE, TIBIA

SIZE = 96


@pytest.fixture(scope="module")
def legs():
    return [draw_leg(0, index) for index in range(2)]


@pytest.fixture(scope="module")
def films(legs):
    return draw_films(legs, SIZE, 40, 0, 0)


def test_the_same_seed_and_step_give_the_same_films_and_others_others(legs, films):
    again = draw_films(legs, SIZE, 40, 0, 0)
    assert all(np.array_equal(a, b) for a, b in zip(films, again, strict=True))
    fewer = draw_films(legs, SIZE, 3, 0, 0)
    assert np.array_equal(fewer[0], films[0][:3])
    for seed, step in ((0, 1), (1, 0)):
        assert not np.array_equal(draw_films(legs, SIZE, 3, seed, step)[0], fewer[0])


def test_legs_of_a_number_depend_on_no_other_leg(legs):
    assert np.array_equal(draw_leg(0, 1).bone, legs[1].bone)
    assert not np.array_equal(draw_leg(1, 1).bone, legs[1].bone)


def test_films_fill_the_range_and_show_all_regions_and_none(films):
    image, labels = films
    assert (
        image.dtype == np.float32
        and labels.dtype == np.uint8
        and image.shape == labels.shape == (40, SIZE, SIZE)
    )
    assert (image.min((1, 2)) == 0).all() and np.allclose(image.max((1, 2)), 1)
    assert set(np.unique(labels)) == {BACKGROUND, FEMUR, TIBIA, JOINT_SPACE}
    with_joint = (labels == JOINT_SPACE).any((1, 2))
    assert 0.6 < with_joint.mean() < 1


def test_bone_is_brighter_than_what_surrounds_it_or_darker_on_an_inverted_film(films):
    image, labels = films
    shown = [i for i in range(40) if (labels[i] == TIBIA).sum() > 200]
    brighter = [image[i][labels[i] == TIBIA].mean() > image[i][labels[i] == BACKGROUND].mean() for i in shown]
    assert 0.75 < np.mean(brighter) < 1
