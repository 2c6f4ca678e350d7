"""Cortical thickness against hollow shafts and phantoms whose cortex is known."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

from data_prep.phantom import CLASS_NAMES, PhantomConfig, generate_image
from data_prep.phantom.regions import FEMUR, JOINT_SPACE, TIBIA, image_regions
from osteojax.baselines.sources.cortex import FEATURES, cortex, cortical_features
from osteojax.errors import UserError
from osteojax.registry import NoSettings


def hollow(centre, radius, cortex, columns):
    """What a hollow shaft absorbs along each column: the chord of its outer circle without that of its inner one."""
    across = np.abs(columns - centre)
    chords = [np.sqrt(np.maximum(r**2 - across**2, 0.0)) for r in (radius, radius - cortex)]
    return (chords[0] - 0.7 * chords[1]) / radius


def film(femur, tibia, slant=0.0):
    """Two shafts of 200 rows with a joint space between, and their map; `femur` and `tibia` are (radius, cortex)."""
    columns, middle = np.arange(320.0), 160.0
    image = np.zeros((200, 320, 2))
    for row in range(200):
        if 95 <= row < 105:
            image[row, 120:200, 1] = 0.5
            continue
        radius, cortex = femur if row < 100 else tibia
        centre = middle + slant * (row - 100)
        # A row cuts a slanted shaft along a longer way.
        stretch = np.hypot(1, slant)
        image[row, :, 0] = hollow(centre, radius * stretch, cortex * stretch, columns)
        image[row, :, 1] = np.abs(columns - centre) < radius * stretch
    image[..., 0] = gaussian_filter1d(image[..., 0] / image[..., 0].max(), 0.7, axis=1)
    return image


@pytest.mark.parametrize("slant", [0.0, 0.7, -0.7])
def test_the_cortex_of_a_hollow_shaft_is_known(slant):
    thick, thin = (cortical_features(film((40, t), (30, t - 1), slant)) for t in (8.0, 5.0))
    # The half levels of a chord's profile lie a little within its cortex: up to a pixel, of blur and of its round form.
    for found, (femur, tibia) in ((thick, (8, 7)), (thin, (5, 4))):
        assert found[0] == pytest.approx(femur, abs=1.0) and found[2] == pytest.approx(tibia, abs=1.0)
        assert found[1] == pytest.approx(2 * femur / 80, abs=0.03)
        assert found[3] == pytest.approx(2 * tibia / 60, abs=0.03)
    assert (thick - thin > [2, 0.05, 2, 0.05]).all()
    # The same shaft, upright: blur along the row is a little less blur across a slanted edge.
    np.testing.assert_allclose(thick, cortical_features(film((40, 8.0), (30, 7.0))), rtol=0.08)


def test_brightness_contrast_and_mirroring_change_nothing():
    image = film((40, 6.0), (30, 4.0), 0.2)
    found = cortical_features(image)
    dimmer = np.stack([0.2 + 0.5 * image[..., 0], image[..., 1]], axis=-1)
    np.testing.assert_allclose(cortical_features(dimmer), found, atol=1e-9)
    np.testing.assert_allclose(cortical_features(image[:, ::-1]), found, atol=1e-9)


def test_what_is_not_there_is_missing():
    image = film((40, 6.0), (30, 4.0))
    image[105:, :, 1] = 0  # no tibia
    found = cortical_features(image)
    assert np.isfinite(found[:2]).all() and np.isnan(found[2:]).all()
    image[..., 1] = 0
    assert np.isnan(cortical_features(image)).all()
    flat = film((40, 6.0), (30, 4.0))
    flat[..., 0] = 0.5
    assert np.isnan(cortical_features(flat)).all()


def test_the_phantoms_cortex_is_found():
    """From exact masks; of 24 knees what is measured goes with the truth, in mm."""
    config = PhantomConfig(image_size=(224, 224), seed=11)
    found, truth = [], []
    for n in range(24):
        knee = generate_image(CLASS_NAMES[n % 3], patient=n, config=config)
        regions = image_regions(knee.patient, knee.acquisition, config.image_size)
        where = np.where(np.isin(regions, (FEMUR, TIBIA)), 1.0, np.where(regions == JOINT_SPACE, 0.5, 0.0))
        features = cortical_features(np.stack([knee.noisy, where], axis=-1))
        found.append(features[[0, 2]].mean() * knee.acquisition.field_mm / 224)
        truth.append(knee.patient.cortex_mm)
    assert np.corrcoef(found, truth)[0, 1] > 0.8
    assert np.abs(np.subtract(found, truth)).mean() < 0.8


def test_images_without_a_map_are_refused():
    with pytest.raises(UserError, match=r"region\.how=channel"):
        cortex([{"image": np.zeros((32, 32, 1))}], NoSettings())
    both = cortex([{"image": film((40, 6.0), (30, 4.0))}, {"image": np.zeros((64, 64, 2))}], NoSettings())
    assert both.names == FEATURES and both.values.shape == (2, 4)
    assert np.isfinite(both.values[0]).all() and np.isnan(both.values[1]).all()
