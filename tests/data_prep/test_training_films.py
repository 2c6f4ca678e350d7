"""What a denoiser learns from."""

import numpy as np
import pytest
from PIL import Image

from data_prep.preprocess import PreprocessSpec, preprocess
from data_prep.training_films import clean_phantoms, noisy_radiographs, reduced_radiographs
from osteojax.cli.train_denoiser import films_of
from osteojax.errors import UserError
from osteojax.train.denoiser import DataSection, DenoiserSettings


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("b/2.png", "a/1.png", "c/3.png"):
        (tmp_path / name).parent.mkdir()
        pixels = 120 + 40 * np.sin(np.mgrid[:130, :100][0] / 30) + rng.normal(0, 6, (130, 100))
        Image.fromarray(np.rint(pixels).astype(np.uint8)).save(tmp_path / name)
    (tmp_path / ".hidden").write_text("no radiograph")
    return tmp_path


def settings(source="phantom", loss="supervised", **data):
    return DenoiserSettings(
        loss=loss, data=DataSection(source=str(source), **{"images": 3, "image_sizes": (48,), **data})
    )


def test_phantoms_have_no_noise_and_follow_from_their_seed():
    films = clean_phantoms(3, (48,), 1)
    assert [film.shape for film in films] == [(48, 48)] * 3 and films[0].dtype == np.float32
    assert all((a == b).all() for a, b in zip(films, clean_phantoms(3, (48,), 1), strict=True))
    assert (films[0] != clean_phantoms(1, (48,), 2)[0]).any()
    assert all(0 <= film.min() < film.max() <= 1 for film in films)


def test_every_class_of_phantoms_comes_in_every_size():
    assert [len(film) for film in clean_phantoms(7, (32, 48), 1)] == [32, 32, 32, 48, 48, 48, 32]


def test_radiographs_are_reduced_as_preparation_reduces_them(folder):
    films = reduced_radiographs(folder, 3, (48, 64))
    assert [len(film) for film in films] == [48, 64, 48]
    pixels = np.asarray(Image.open(folder / "a/1.png"), np.float32)
    np.testing.assert_array_equal(films[0], preprocess(pixels, PreprocessSpec(image_size=48))[..., 0])


def test_noisy_ones_stay_as_they_are_with_their_sigma(folder):
    (pixels, sigma), *rest = noisy_radiographs(folder, 9)
    assert len(rest) == 2
    np.testing.assert_allclose(255 * pixels, np.asarray(Image.open(folder / "a/1.png")), atol=1e-4)
    assert 255 * sigma == pytest.approx(6, rel=0.15)


def test_for_sure_a_phantom_has_noise_that_is_drawn_once(folder):
    clean, noisy, again = (films_of(settings(loss=loss)) for loss in ("supervised", "sure", "sure"))
    for film, dirty, same in zip(clean, noisy, again, strict=True):
        assert film.sigma == 0 and dirty.sigma > 0
        assert np.std(dirty.pixels - film.pixels) == pytest.approx(dirty.sigma, rel=0.1)
        np.testing.assert_array_equal(dirty.pixels, same.pixels)
    assert len({film.sigma for film in noisy}) == 3
    assert films_of(settings(folder, "sure"))[0].sigma > 0
    assert films_of(settings(folder))[0].sigma == 0


def test_what_is_no_folder_of_radiographs_is_one_sentence(folder, tmp_path):
    with pytest.raises(UserError, match=r"data\.source=.*nowhere is no folder"):
        films_of(settings(tmp_path / "nowhere"))
    (folder / "a/0.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"a/0\.png"):
        films_of(settings(folder))
    with pytest.raises(UserError, match=r"a/0\.png"):
        films_of(settings(folder, "sure"))
