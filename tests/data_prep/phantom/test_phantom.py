"""The phantom: its physics against independent computations, its files, and what its images give away."""

import csv
import dataclasses
import filecmp

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.stats import multivariate_normal
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data_prep.phantom import CLASS_NAMES, PhantomConfig, draw_acquisition, generate_image, write_phantom
from data_prep.phantom.acquisition import attenuation_coefficients, expose
from data_prep.phantom.anatomy import draw_patient
from data_prep.phantom.dataset import patient_images, patient_labels
from data_prep.phantom.projection import Projection
from data_prep.phantom.texture import (
    field_correlation,
    levelled_covariance,
    projected_covariance,
    sample_field,
)
from osteojax.errors import UserError

SMALL = PhantomConfig(n_patients=5, image_size=(64, 48), images_per_patient=(1, 2), seed=3)


# Texture


@pytest.mark.parametrize("fraction", [0.1, 0.24, 0.5])
@pytest.mark.parametrize("rho", [-0.4, 0.0, 0.3, 0.9])
def test_levelled_covariance_is_the_bivariate_normal_probability(rho, fraction):
    from scipy.special import ndtri

    threshold = ndtri(1 - fraction)
    both = multivariate_normal(cov=[[1, rho], [rho, 1]]).cdf([-threshold, -threshold])
    assert levelled_covariance(np.array(rho), fraction) == pytest.approx(both - fraction**2, abs=2e-5)


def test_projected_texture_has_the_spectrum_of_a_projected_volume():
    """Builds the volume that the Fourier slice theorem spares: a thresholded field, summed along the beam."""
    step, shape, bv_tv, spacing, anisotropy = 0.25, (96, 96, 64), 0.2, 1.0, 2.0
    lags = [np.minimum(np.arange(n), n - np.arange(n)) * step for n in shape]
    y, x, z = np.meshgrid(*lags, indexing="ij")
    rho = field_correlation(np.sqrt((y / anisotropy) ** 2 + x**2 + z**2), spacing)
    amplitude = np.sqrt(np.maximum(np.fft.fftn(rho).real, 0))
    rng = np.random.default_rng(0)
    depth = shape[2] * step
    threshold = 0.8416  # the standard normal's upper 20 %
    measured, rows = [], []
    for _ in range(12):
        field = np.fft.ifftn(amplitude * np.fft.fftn(rng.standard_normal(shape))).real
        thickness = (field / field.std() > threshold).sum(axis=2) * step
        measured.append(thickness.var())
        rows.append(
            np.mean((thickness - thickness.mean()) * np.roll(thickness - thickness.mean(), 4, axis=0))
        )
    covariance = projected_covariance(bv_tv, spacing, anisotropy, 0.0, step)
    centre = covariance.shape[0] // 2
    # 12 volumes of some 24 x 24 x 16 independent cells each: the variance is known to about 2 %.
    assert np.mean(measured) / depth == pytest.approx(covariance[centre, centre], rel=0.1)
    assert np.mean(rows) / depth == pytest.approx(covariance[centre + 4, centre], rel=0.2)
    sampled = sample_field(covariance, (256, 256), rng)
    assert sampled.var() == pytest.approx(covariance[centre, centre], rel=0.1)


def test_coarse_pixels_average_the_struts():
    fine = projected_covariance(0.2, 0.9, 1.8, 10.0, 0.2)
    coarse = projected_covariance(0.2, 0.9, 1.8, 10.0, 0.8)
    field = sample_field(fine, (512, 512), np.random.default_rng(1)).astype(float)
    averaged = field.reshape(128, 4, 128, 4).mean(axis=(1, 3))
    assert coarse.max() < 0.7 * fine.max()
    assert averaged.var() == pytest.approx(coarse.max(), rel=0.1)


# Exposure


def _slab(bone_mm, tissue_mm, n=200):
    return Projection(
        bone_mm=np.full((n, n), bone_mm, np.float32),
        tissue_mm=np.full((n, n), tissue_mm, np.float32),
        pitch_mm=1.0,
        reference_bone_mm=bone_mm,
    )


def _plain_acquisition(**changes):
    drawn = draw_acquisition("L", 400.0, np.random.default_rng(0))
    return dataclasses.replace(
        drawn, heel=0.0, collimation=(0.0,) * 4, marker=None, energy_kev=50.0, window=(0.5, 1.0), **changes
    )


def test_attenuation_is_nists_at_50_kev():
    bone, soft = attenuation_coefficients(50.0, fat=0.0)
    # Table 4: cortical bone 0.4242, soft tissue 0.2264 cm^2/g; densities 1.92 and 1.06 g/cm^3.
    assert bone == pytest.approx(0.4242 * 1.92 / 10)
    assert soft == pytest.approx(0.2264 * 1.06 / 10)
    assert attenuation_coefficients(45.0, 0.0)[0] > bone > attenuation_coefficients(55.0, 0.0)[0]


def test_exposure_of_a_slab_follows_beer_lambert_and_poisson():
    patient = dataclasses.replace(draw_patient("healthy", np.random.default_rng(0)), fat=0.0)
    quanta = 400.0
    clean, noisy, used = expose(
        _slab(10.0, 100.0),
        patient,
        _plain_acquisition(quanta=quanta),
        (256, 256),
        None,
        np.random.default_rng(1),
    )
    bone, soft = attenuation_coefficients(50.0, 0.0)
    reference = soft * 100 + (bone - soft) * 10
    low, high = 0.5 * soft * 100, reference + (bone - soft) * 10
    assert used == quanta
    np.testing.assert_allclose(clean, (reference - low) / (high - low), atol=1e-5)
    # var(log n) = (n + readout^2) / n^2; 65536 pixels give the standard deviation to 0.3 %, the rest is the
    # delta method's own error of order 1/n.
    expected_sd = np.sqrt(quanta + 1.5**2) / quanta / (high - low)
    assert np.std(noisy - clean) == pytest.approx(expected_sd, rel=0.02)
    neighbours = np.corrcoef((noisy - clean)[:, 1:].ravel(), (noisy - clean)[:, :-1].ravel())[0, 1]
    assert abs(neighbours) < 0.02


@pytest.mark.parametrize("psnr_db", [21.3, 32.0])
def test_exposure_reaches_the_psnr_asked_for(psnr_db):
    config = PhantomConfig(image_size=(160, 160), psnr_db=psnr_db)
    measured = [generate_image("osteopenia", patient=p, config=config).psnr_db for p in range(6)]
    # At 21.3 dB some pixels count nothing and the display clips: the delta method is off by some tenths.
    np.testing.assert_allclose(measured, psnr_db, atol=1.0)


# Files


def _tree(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_files_depend_on_the_seed_alone(tmp_path):
    one = write_phantom(tmp_path / "one", SMALL)
    two = write_phantom(tmp_path / "two", dataclasses.replace(SMALL, workers=2))
    assert _tree(one) == _tree(two)
    assert filecmp.cmpfiles(one, two, _tree(one), shallow=False)[0] == _tree(one)
    other = write_phantom(tmp_path / "other", dataclasses.replace(SMALL, seed=4))
    assert not filecmp.cmp(one / "images/p00000_0.png", other / "images/p00000_0.png", shallow=False)


def test_a_patient_does_not_depend_on_how_many_others_there_are():
    few, many = (
        next(patient_images(2, "healthy", dataclasses.replace(SMALL, n_patients=n))) for n in (3, 50)
    )
    np.testing.assert_array_equal(few.noisy, many.noisy)


@pytest.mark.parametrize("bit_depth", [8, 16])
def test_written_set(tmp_path, bit_depth):
    folder = write_phantom(tmp_path / "set", dataclasses.replace(SMALL, bit_depth=bit_depth))
    with (folder / "labels.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["file", "label", "patient_id", "age", "sex", "site", "side"]
    assert {row["file"] for row in rows} == {f for f in _tree(folder) if f.startswith("images/")}
    assert {row["label"] for row in rows} <= set(CLASS_NAMES)
    by_patient = {}
    for row in rows:
        by_patient.setdefault(row["patient_id"], set()).add((row["label"], row["age"], row["sex"]))
        assert not any(name[:6] in row["file"] for name in CLASS_NAMES)
        noisy = np.asarray(Image.open(folder / row["file"]))
        clean = np.asarray(Image.open(folder / row["file"].replace("images/", "clean/")))
        assert noisy.shape == clean.shape == SMALL.image_size
        assert (noisy.dtype, clean.dtype) == (np.dtype(f"uint{bit_depth}"), np.dtype("uint16"))
        difference = noisy / np.iinfo(noisy.dtype).max - clean / 65535
        assert 0.003 < difference.std() < 0.1
    assert len(by_patient) == SMALL.n_patients
    assert all(len(facts) == 1 for facts in by_patient.values())


def test_class_balance_is_the_papers():
    labels = patient_labels(PhantomConfig(n_patients=302))
    assert [labels.count(name) for name in CLASS_NAMES] == [120, 95, 87]
    assert labels != sorted(labels)


def test_nothing_is_left_of_a_failed_write(tmp_path, monkeypatch):
    def disk_full(*_args):
        raise OSError("no space left")

    monkeypatch.setattr("data_prep.phantom.dataset._write_table", disk_full)
    with pytest.raises(OSError, match="no space"):
        write_phantom(tmp_path / "set", SMALL)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_not_overwritten(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="exists already"):
        write_phantom(tmp_path, SMALL)
    assert (tmp_path / "mine.txt").read_text() == "keep"


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_patients": 0},
        {"images_per_patient": (2, 1)},
        {"image_size": (8, 448)},
        {"bit_depth": 12},
        {"quanta": 0.0},
        {"psnr_db": 200.0},
        {"class_balance": (0, 0, 0)},
        {"seed": -1},
        {"workers": 0},
    ],
)
def test_impossible_config_names_the_field(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        PhantomConfig(**wrong)


def test_unknown_label():
    with pytest.raises(UserError, match="healthy, osteopenia, osteoporosis"):
        generate_image("sick")


# What the images give away


def _thumbnail(image):
    return np.asarray(Image.fromarray(image.astype(np.float32)).resize((8, 8), Image.Resampling.BOX))


def test_label_alone_changes_the_texture_and_not_the_thumbnail():
    config = PhantomConfig(image_size=(224, 224))
    for patient in range(3):
        healthy, porotic = (
            generate_image(label, patient=patient, config=config).clean
            for label in ("healthy", "osteoporosis")
        )
        # Thumbnails vary between patients by about 0.1 of the range.
        assert np.abs(_thumbnail(healthy) - _thumbnail(porotic)).max() < 0.01
        rough = [
            np.std((image - gaussian_filter(image, 2.0))[130:170, 84:140]) for image in (healthy, porotic)
        ]
        assert rough[1] > 1.5 * rough[0]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """One image of each of 200 patients as written: pixels in [0, 1], labels, file sizes and metadata."""
    config = PhantomConfig(n_patients=200, images_per_patient=(1, 1), image_size=(224, 224), seed=11)
    folder = write_phantom(tmp_path_factory.mktemp("phantom") / "cohort", config)
    with (folder / "labels.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    images = np.stack([np.asarray(Image.open(folder / row["file"])) for row in rows]) / 255.0
    labels = np.array([CLASS_NAMES.index(row["label"]) for row in rows])
    metadata = np.array(
        [
            [
                (folder / row["file"]).stat().st_size,
                int(row["age"]),
                row["sex"] == "male",
                row["side"] == "left",
            ]
            for row in rows
        ],
        dtype=float,
    )
    exposure = np.stack([images.mean(axis=(1, 2)), images.std(axis=(1, 2))], axis=1)
    return images, labels, np.hstack([metadata, exposure])


MODELS = {
    "logistic": make_pipeline(
        StandardScaler(), LogisticRegression(C=0.1, max_iter=1000, class_weight="balanced")
    ),
    "forest": RandomForestClassifier(200, min_samples_leaf=3, class_weight="balanced", random_state=0),
}


def _score(model, features, labels):
    """Balanced accuracy over five folds; one image a patient, so that folds are patient-disjoint."""
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return balanced_accuracy_score(labels, cross_val_predict(MODELS[model], features, labels, cv=folds))


def _chance_bound(labels):
    """Balanced accuracy that guessing exceeds once in 200 (the normal limit of the binomial recalls)."""
    k = len(CLASS_NAMES)
    variance = (1 / k) * (1 - 1 / k) / k**2 * np.sum(1.0 / np.bincount(labels))
    return 1 / k + 2.58 * np.sqrt(variance)


def _trivial_cues(images, metadata):
    thumbnails = np.stack([_thumbnail(image).ravel() for image in images])
    low, high = thumbnails.min(axis=1, keepdims=True), thumbnails.max(axis=1, keepdims=True)
    return {"thumbnail": thumbnails, "min-max": (thumbnails - low) / (high - low), "metadata": metadata}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("cue", ["thumbnail", "min-max", "metadata"])
def test_trivial_cues_stay_at_chance(cohort, cue, model):
    images, labels, metadata = cohort
    assert _score(model, _trivial_cues(images, metadata)[cue], labels) < _chance_bound(labels)


def test_a_planted_cue_would_be_found(cohort):
    """The test above can fail: 5 % of brightness tied to the class is enough."""
    images, labels, metadata = cohort
    tied = images * (1.0 - 0.05 * labels[:, None, None])
    tied[:, :28, :28] = 0.5 * tied[:, 28:56, 28:56]
    tied[:, :28, 28:56] = 0.5 * images[:, 28:56, 28:56]
    assert _score("logistic", _trivial_cues(tied, metadata)["thumbnail"], labels) > _chance_bound(labels)


def test_texture_tells_the_classes_apart_but_not_perfectly(cohort):
    """Band energies and their direction inside the bones, as a radiologist reads the trabecular pattern."""
    images, labels, _ = cohort
    features = []
    for image in images:
        row = []
        for rows in (slice(45, 95), slice(120, 170)):
            region = image[rows, 75:150]
            for fine, coarse in ((0.0, 0.7), (0.7, 1.4), (1.4, 2.8)):
                band = gaussian_filter(region, fine) - gaussian_filter(region, coarse)
                across, along = np.gradient(band, axis=1), np.gradient(band, axis=0)
                row += [np.log(band.var()), np.log(across.var() / along.var())]
        features.append(row)
    score = _score("logistic", np.array(features), labels)
    assert _chance_bound(labels) + 0.1 < score < 0.95
