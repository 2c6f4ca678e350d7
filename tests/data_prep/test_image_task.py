"""The cache of finished images: nothing but what was computed, for these bytes and this spec, ever comes out of it."""

import dataclasses
import gc
import hashlib
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep import image_task
from data_prep.decode import DEFAULT_LIMITS
from data_prep.denoise.registry import DENOISERS, DenoiseSpec, denoiser
from data_prep.image_task import Failed, ImageTask, Prepared, load_image, prepare_image
from data_prep.preprocess import PreprocessSpec, preprocess

SPEC = PreprocessSpec(image_size=16)


def pixels(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (40, 36), dtype=np.uint8)


@pytest.fixture
def task(tmp_path) -> ImageTask:
    Image.fromarray(pixels()).save(tmp_path / "a.png")
    (tmp_path / "cache").mkdir()
    return ImageTask(tmp_path / "a.png", None, SPEC, DEFAULT_LIMITS, tmp_path / "cache")


@pytest.fixture
def computed(monkeypatch) -> list[str]:
    """Keys of what was computed rather than found."""
    keys: list[str] = []
    compute = image_task._compute

    def noted(radiograph, n_bytes, clean, key, task):
        keys.append(key)
        return compute(radiograph, n_bytes, clean, key, task)

    monkeypatch.setattr(image_task, "_compute", noted)
    return keys


def prepared(task: ImageTask) -> Prepared:
    found = prepare_image(task)
    assert isinstance(found, Prepared), found
    return found


def test_what_is_found_is_what_was_computed(task, computed):
    first, again = prepared(task), prepared(task)
    assert first == again and len(computed) == 1
    image = load_image(task.cache, again.key)
    np.testing.assert_array_equal(image, preprocess(pixels(), SPEC))
    header = repr(image.shape).encode()
    assert again.pixels_sha256 == hashlib.sha256(header + image.astype("<f4").tobytes()).hexdigest()
    assert (again.width, again.height, again.bits, again.n_bytes) == (36, 40, 8, task.path.stat().st_size)


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": 24},
        {"aspect": "letterbox"},
        {"value_bits": 8},
        {"denoise": DenoiseSpec.of("bm3d", {}), "sigma": 5.0},
        {"denoise": DenoiseSpec.of("bm3d", {}), "sigma": 9.0},
        {"denoise": DenoiseSpec.of("bm3d", {"profile": "np"}), "sigma": 9.0},
    ],
)
def test_another_spec_is_never_served_from_the_cache(task, computed, change):
    before = load_image(task.cache, prepared(task).key)
    spec = dataclasses.replace(SPEC, **change)
    image = load_image(task.cache, prepared(dataclasses.replace(task, spec=spec)).key)
    assert len(computed) == 2
    np.testing.assert_array_equal(image, preprocess(pixels(), spec))
    assert image.shape != before.shape or (image != before).any()


@pytest.mark.parametrize("aspect", ["squash", "letterbox"])
def test_quality_is_measured_where_the_image_is_denoised(task, tmp_path, aspect):
    clean = pixels() // 2 + 60
    Image.fromarray(clean).save(tmp_path / "clean.png")
    spec = PreprocessSpec(image_size=30, aspect=aspect, denoise_at="resized")  # a denoiser that does nothing
    found = prepared(dataclasses.replace(task, spec=spec, clean=tmp_path / "clean.png")).quality
    size = (27, 30) if aspect == "letterbox" else (30, 30)
    noisy, truth = (
        np.asarray(Image.fromarray(each.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
        for each in (pixels(), clean)
    )
    psnr = 20 * np.log10(255 / np.sqrt(np.mean((noisy - truth) ** 2)))
    assert found["psnr_before"] == pytest.approx(psnr, abs=1e-4) == found["psnr_after"]


def test_other_bytes_limits_and_truths_are_other_entries(task, computed, tmp_path):
    first = prepared(task)
    assert first.quality is None
    Image.fromarray(np.full((40, 36), 9, np.uint8) + pixels() // 2).save(tmp_path / "clean.png")
    with_truth = prepared(dataclasses.replace(task, clean=tmp_path / "clean.png"))
    assert with_truth.quality is not None
    Image.fromarray(pixels() // 2 + 60).save(tmp_path / "clean.png")
    other_truth = prepared(dataclasses.replace(task, clean=tmp_path / "clean.png"))
    assert other_truth.quality != with_truth.quality
    strict = dataclasses.replace(DEFAULT_LIMITS, min_side=38)
    assert isinstance(prepare_image(dataclasses.replace(task, limits=strict)), Failed)
    Image.fromarray(pixels(1)).save(task.path)
    assert prepared(task).sha256 != first.sha256
    assert len(set(computed)) == 4  # what does not decode is not computed


@pytest.mark.parametrize("bits", [8, 12, 15, 16, 23])
def test_the_cache_holds_the_image_to_the_bit_at_every_depth(task, bits):
    spec = dataclasses.replace(SPEC, value_bits=bits)
    found = prepared(dataclasses.replace(task, spec=spec))
    image = load_image(task.cache, found.key)
    assert image.dtype == np.float32 and image.max() == 1.0
    np.testing.assert_array_equal(image, preprocess(pixels(), spec))


def damaged(data: bytes) -> list[bytes]:
    """The file cut, with bits flipped, zeroed and overwritten, at places all over it."""
    places = sorted({*range(0, len(data), 23), *range(64), *range(len(data) - 150, len(data))})
    flipped = [data[:at] + bytes([data[at] ^ (1 << at % 8)]) + data[at + 1 :] for at in places]
    cut = [data[:at] for at in places[::7]]
    zeroed = [data[:at] + bytes(min(40, len(data) - at)) + data[at + 40 :] for at in places[::11]]
    return [*flipped, *cut, *zeroed, b"", b"x" * 100, data[: len(data) // 2] * 2]


def test_damage_is_noticed_and_mended(task, computed):
    first = prepared(task)
    image = load_image(task.cache, first.key)
    entry = task.cache / f"{first.key}.npz"
    whole = entry.read_bytes()
    harmless = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for data in damaged(whole):
            entry.write_bytes(data)
            before = len(computed)
            assert prepared(task) == first
            # A bit that means nothing in a ZIP archive (a date, a version) may stay; what comes out is right.
            harmless += len(computed) == before
            np.testing.assert_array_equal(load_image(task.cache, first.key), image)
            entry.write_bytes(whole)
        gc.collect()
    assert 200 < len(computed) > 2 * harmless


def test_a_whole_entry_with_other_pixels_or_of_another_image_is_not_believed(task, computed, tmp_path):
    first = prepared(task)
    entry = task.cache / f"{first.key}.npz"
    with np.load(entry) as stored:
        parts = dict(stored)
    np.savez(entry, **{**parts, "steps": parts["steps"][::-1]})
    assert prepared(task) == first and len(computed) == 2
    Image.fromarray(pixels(1)).save(tmp_path / "b.png")
    other = prepared(dataclasses.replace(task, path=tmp_path / "b.png"))
    entry.write_bytes((task.cache / f"{other.key}.npz").read_bytes())
    assert prepared(task) == first and len(computed) == 4


@pytest.mark.parametrize("written", [0.0, 0.5, 1.0])
def test_a_task_that_is_killed_while_it_writes_leaves_no_entry(task, computed, monkeypatch, written):
    write = Path.write_bytes

    def interrupted(path, content):
        write(path, content[: int(written * len(content))])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare_image(task)
    assert not list(task.cache.glob("*.npz"))
    monkeypatch.undo()
    np.testing.assert_array_equal(load_image(task.cache, prepared(task).key), preprocess(pixels(), SPEC))


def test_what_libraries_warn_of_carries_the_files_name(task, caplog, recwarn):
    def noisy(pixels, sigma, settings):
        warnings.warn("something is odd", UserWarning, stacklevel=1)
        return pixels / np.float32(np.log(np.zeros(1))[0] > 0 or 1)

    with DENOISERS.temporary(), caplog.at_level("INFO"):
        denoiser("noisy")(noisy)
        spec = dataclasses.replace(SPEC, denoise=DenoiseSpec.of("noisy", {}))
        prepared(dataclasses.replace(task, spec=spec))
    assert not recwarn.list
    lines = [record.getMessage() for record in caplog.records]
    assert [line.rpartition(": ")[0] for line in lines] == [str(task.path)] * 2
    assert "something is odd" in lines[0] and "divide by zero" in lines[1]


def test_a_defect_of_a_denoiser_costs_one_image_and_no_exceptions_text(task, caplog):
    with DENOISERS.temporary():
        denoiser("odd")(lambda pixels, sigma, settings: pixels * np.float32("nan"))
        found = prepare_image(
            dataclasses.replace(task, spec=dataclasses.replace(SPEC, denoise=DenoiseSpec.of("odd", {})))
        )
    assert isinstance(found, Failed) and "a defect of the program" in found.reason
    assert "odd" not in found.reason and "a.png" in caplog.text
    assert not list(task.cache.glob("*.npz"))
