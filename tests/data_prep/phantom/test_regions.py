"""The masks of the phantom against its pictures, which are made without them."""

import dataclasses

import numpy as np
import pytest

from data_prep.phantom import PhantomConfig, draw_acquisition, draw_patient
from data_prep.phantom.acquisition import resample
from data_prep.phantom.dataset import generate_image
from data_prep.phantom.projection import FRAME_MM, knee_axis, project
from data_prep.phantom.regions import BACKGROUND, FEMUR, JOINT_SPACE, TIBIA, image_regions

SIZE = (300, 300)


def drawn(seed, **changes):
    rng = np.random.default_rng(seed)
    patient = draw_patient("healthy", rng)
    # The patella out of the way, so that all bone above the joint is femur's.
    patient = dataclasses.replace(patient, patella_mm=(0.0, -500.0))
    plain = {"side": "L", "collimation": (0.0, 0.0, 0.0, 0.0), "marker": None} | changes
    return patient, dataclasses.replace(draw_acquisition("L", 150.0, rng), **plain)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("side", ["L", "R"])
def test_bone_is_where_the_picture_has_bone_and_the_joint_space_where_it_has_none(seed, side):
    patient, acquisition = drawn(seed, side=side)
    pitch = 0.25
    bone = project(patient, pitch, np.random.default_rng(seed)).bone_mm
    axis = knee_axis(patient, pitch, FRAME_MM)
    fibula = np.broadcast_to((axis > 11) & (axis[:, None] > 3), bone.shape)
    shown, hidden = (
        resample(x.astype(np.float32), pitch, acquisition, SIZE) > 0.5 for x in (bone > 0, fibula)
    )
    labels = image_regions(patient, acquisition, SIZE)
    either = np.isin(labels, (FEMUR, TIBIA))
    assert np.mean(either[~hidden] != shown[~hidden]) < 3e-3  # a quarter of a pixel at the edges
    assert np.mean(shown[labels == JOINT_SPACE] & ~hidden[labels == JOINT_SPACE]) < 0.05


def test_the_joint_space_has_the_femur_above_it_and_the_tibia_below():
    patient, acquisition = drawn(0, rotation_deg=0.0)
    labels = image_regions(patient, acquisition, SIZE)
    columns = np.flatnonzero((labels == JOINT_SPACE).any(0))
    assert len(columns) > 100
    for column in columns[2:-2]:  # at the ends a part of a pixel decides
        seen = labels[:, column][labels[:, column] != BACKGROUND]
        assert (seen[0], seen[-1]) == (FEMUR, TIBIA)
    wide = (labels == JOINT_SPACE).sum(0)[columns]
    pixel_mm = acquisition.field_mm / SIZE[0]
    # Between the condyles' lowest points and the plateaus: the space that the patient was given, and what cartilage
    # the plateau's hollow holds.
    assert 0.5 < wide.min() * pixel_mm / patient.joint_space_mm < 1.8


def test_a_wider_joint_space_is_wider():
    patient, acquisition = drawn(0)
    areas = [
        (
            image_regions(dataclasses.replace(patient, joint_space_mm=mm), acquisition, SIZE) == JOINT_SPACE
        ).sum()
        for mm in (3.0, 4.0, 5.0)
    ]
    assert areas[0] < areas[1] < areas[2]


def test_nothing_lies_behind_the_shutter():
    patient, acquisition = drawn(1, collimation=(0.1, 0.2, 0.3, 0.0))
    labels = image_regions(patient, acquisition, SIZE)
    assert not labels[:30].any() and not labels[-60:].any() and not labels[:, :90].any()
    open_field = image_regions(patient, dataclasses.replace(acquisition, collimation=(0.0,) * 4), SIZE)
    assert np.array_equal(labels[30:240, 90:], open_field[30:240, 90:])


def test_the_frame_may_be_larger_and_the_shafts_go_on():
    patient, _ = drawn(0)
    large = project(patient, 1.0, np.random.default_rng(0), 300.0)
    middle = large.bone_mm.shape[1] // 2
    assert (large.bone_mm[0, middle - 20 : middle + 20] > 0).any() and (large.bone_mm[-1] > 0).any()
    assert not large.tissue_mm[:, 0].any()


def test_the_regions_of_a_generated_image():
    image = generate_image("osteopenia", patient=3, config=PhantomConfig(image_size=(128, 96)))
    labels = image_regions(image.patient, image.acquisition, (128, 96))
    assert labels.shape == (128, 96) and labels.dtype == np.uint8
    femur, soft = image.clean[labels == FEMUR].mean(), image.clean[labels == JOINT_SPACE].mean()
    assert femur > soft + 0.1
