"""What is made of probabilities: the crop, the mask, and each reason for doubt."""

import numpy as np
import pytest

from data_prep.phantom.regions import FEMUR, JOINT_SPACE, TIBIA
from data_prep.region.joint import find_region


def knee(labels, left, *, top=60, width=40, gap=5):
    """A femur, a joint space and a tibia, drawn as boxes."""
    columns = slice(left, left + width)
    labels[:top, left + 10 : left + width - 10] = FEMUR
    labels[top - 30 : top, columns] = FEMUR
    labels[top : top + gap, columns] = JOINT_SPACE
    labels[top + gap :, columns] = TIBIA
    return labels


def sure(labels, certainty=0.97):
    p = np.full((*labels.shape, 4), (1 - certainty) / 3, np.float32)
    np.put_along_axis(p, labels[..., None], certainty, -1)
    return p


@pytest.fixture
def empty():
    return np.zeros((150, 120), int)


def test_the_crop_is_a_square_around_the_joint_and_keeps_to_the_film(empty):
    region = find_region(sure(knee(empty, 30)))
    assert region.reason == "found"
    top, bottom, left, right = (share * side for share, side in zip(
        (*region.rows, *region.columns), (150, 150, 120, 120), strict=True))  # fmt: skip
    assert bottom - top == pytest.approx(right - left) and right - left == pytest.approx(1.6 * 40)
    assert (top + bottom) / 2 == pytest.approx(62.5) and (left + right) / 2 == pytest.approx(50)
    at_the_edge = find_region(sure(knee(np.zeros_like(empty), 2, top=20)))
    assert at_the_edge.rows[0] == 0 and at_the_edge.columns[0] == 0


def test_both_joints_of_a_film_are_kept(empty):
    region = find_region(sure(knee(knee(empty, 8), 72, top=66)))
    assert region.reason == "found"
    assert region.columns[0] == 0 and region.columns[1] == 1
    assert region.rows[0] * 150 < 62 - 20 and region.rows[1] * 150 > 68 + 20


def test_the_mask_holds_the_knee_a_margin_and_no_speck(empty):
    labels = knee(empty, 30)
    labels[5:9, 100:104] = TIBIA
    mask = find_region(sure(labels)).mask
    assert mask.shape == labels.shape
    assert mask[labels == FEMUR].all() and mask[labels == JOINT_SPACE].all()
    assert not mask[5:9, 100:104].any()
    assert mask[100, 28] and not mask[100, 27]


def without(labels, what):
    labels[labels == what] = 0
    return labels


DOUBTS = {
    "no joint space": lambda labels: without(knee(labels, 30), JOINT_SPACE),
    "more than two joint spaces": lambda labels: knee(knee(knee(labels, 2, width=30), 40, width=30), 80, width=30),
    "a joint space of no such shape": lambda labels: knee(labels, 30, gap=30),
    "no femur above the joint space": lambda labels: without(knee(labels, 30), FEMUR),
    "no tibia below the joint space": lambda labels: without(knee(labels, 30), TIBIA),
    "femur below or tibia above the joint space": lambda labels: np.where(
        np.arange(150)[:, None] > 110, FEMUR, knee(labels, 30)
    ),
    "two joint spaces too unlike": lambda labels: knee(knee(labels, 2, width=60), 80, width=30),
}  # fmt: skip


@pytest.mark.parametrize("reason", DOUBTS)
def test_what_is_no_plausible_knee_goes_on_as_it_is_and_says_why(reason, empty):
    region = find_region(sure(DOUBTS[reason](empty)))
    assert region.reason == reason
    assert (region.rows, region.columns, region.mask.all()) == ((0, 1), (0, 1), True)


def test_a_network_that_is_not_sure_says_so(empty):
    labels = knee(empty, 30)
    p = sure(labels)
    p[labels == JOINT_SPACE] = sure(labels, 0.6)[labels == JOINT_SPACE]
    assert find_region(p).reason == "not sure enough"


def test_a_film_upside_down_is_not_believed(empty):
    assert find_region(sure(knee(empty, 30)[::-1])).reason == "no femur above the joint space"


def test_specks_beside_a_joint_do_not_count(empty):
    labels = knee(empty, 30)
    labels[140:144, 100:106] = JOINT_SPACE
    assert find_region(sure(labels)).reason == "found"


@pytest.mark.parametrize("columns", [slice(30, 48), slice(42, 58)])
def test_a_joint_space_that_is_not_all_seen_moves_no_crop(empty, columns):
    labels = knee(empty, 30)
    whole = find_region(sure(labels))
    labels[60:65, columns] = 0
    part = find_region(sure(labels))
    assert part.reason == "found"
    np.testing.assert_allclose((part.rows, part.columns), (whole.rows, whole.columns))
