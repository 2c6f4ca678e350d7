"""What preparation does of a region: crop, mask, or nothing and why."""

import csv
import dataclasses
import hashlib
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy
from ml_collections import ConfigDict

from data_prep.phantom import PhantomConfig, generate_image
from data_prep.prepare import prepare
from data_prep.preprocess import PreprocessSpec, preprocess, preprocess_native
from data_prep.region import segment as segmenter
from data_prep.region.spec import SIZE as SIDE
from data_prep.region.spec import RegionSpec, kept, region_spec, shipped_sha256
from data_prep.region.weights import make_unet, write_weights
from osteojax import config as configs
from osteojax.cli import main
from osteojax.errors import UserError

HEIGHT, WIDTH = 300, 240


def found(labels):
    """Instead of the network: sure of these labels."""
    p = np.full((SIDE, SIDE, 4), 0.01, np.float32)
    np.put_along_axis(p, labels[..., None], 0.97, -1)
    return lambda image, sha256: p


@pytest.fixture
def pixels():
    return np.random.default_rng(0).uniform(0, 255, (HEIGHT, WIDTH)).astype(np.float32)


@pytest.fixture
def knee(monkeypatch):
    """A joint in the middle: of 192 rows the film fills all, of 192 columns those from 19 to 173."""
    labels = np.zeros((SIDE, SIDE), int)
    labels[40:94, 66:126] = 1
    labels[94:98, 66:126] = 3
    labels[98:170, 66:126] = 2
    monkeypatch.setattr(segmenter, "segment", found(labels))


def spec(how, **more):
    return PreprocessSpec(image_size=64, region=RegionSpec(how, "0" * 64), **more)


@pytest.mark.parametrize("aspect", ["squash", "letterbox"])
def test_a_crop_is_prepared_as_if_the_file_had_been_cropped(pixels, knee, aspect):
    done = preprocess_native(pixels, spec("crop", aspect=aspect))
    assert done.region == "found"
    rows, columns = done.window
    scale, left = HEIGHT / SIDE, 19
    # The joint's middle and width in the file's pixels; the crop is 1.6 times as wide, and square.
    assert (rows.start + rows.stop) / 2 == pytest.approx(96 * scale, abs=1)
    assert (columns.start + columns.stop) / 2 == pytest.approx((96 - left) * scale, abs=1.5)
    assert columns.stop - columns.start == pytest.approx(1.6 * 60 * scale, abs=2)
    assert rows.stop - rows.start == pytest.approx(1.6 * 60 * scale, abs=2)
    plain = PreprocessSpec(image_size=64, aspect=aspect)
    assert np.array_equal(done.image, preprocess(pixels[done.window], plain))
    assert not np.array_equal(done.image, preprocess(pixels, plain))


def test_a_mask_leaves_the_knee_and_darkens_the_rest(pixels, knee):
    done = preprocess_native(pixels, spec("mask", aspect="letterbox"))
    plain = preprocess(pixels, PreprocessSpec(image_size=64, aspect="letterbox"))
    assert done.window == (slice(0, HEIGHT), slice(0, WIDTH)) and done.region == "found"
    # The knee with its margin of 2: rows 38 to 172 and columns 64 to 128 of 192, a third of that here.
    inside, outside = np.zeros((64, 64), bool), np.ones((64, 64), bool)
    inside[14:56, 23:41], outside[11:59, 20:44] = True, False
    assert not done.image[outside].any()
    assert np.count_nonzero(done.image[inside]) >= inside.sum() - 1
    slope, offset = np.polyfit(plain[inside][:, 0], done.image[inside][:, 0], 1)
    np.testing.assert_allclose(slope * plain[inside] + offset, done.image[inside], atol=1e-3)
    assert done.image.max() == 1 and slope > 1


@pytest.mark.parametrize("aspect", ["squash", "letterbox"])
def test_a_channel_stands_beside_the_image_which_is_as_it_was(pixels, knee, aspect):
    done = preprocess_native(pixels, spec("channel", aspect=aspect))
    plain = preprocess(pixels, PreprocessSpec(image_size=64, aspect=aspect))
    assert done.image.shape == (64, 64, 2) and done.image.dtype == np.float32 and done.region == "found"
    assert np.array_equal(done.image[..., :1], plain) and done.window == (slice(0, HEIGHT), slice(0, WIDTH))
    # Of the film's 154 columns the knee has 66 - 19 to 126 - 19; squashed, the film fills the square.
    left, right = (22, 42) if aspect == "letterbox" else (20, 44)
    map_ = done.image[..., 1]
    np.testing.assert_allclose(map_[15:30, left + 2 : right - 2], 0.99, atol=0.02)
    np.testing.assert_allclose(np.flatnonzero(map_[20] > 0.5)[[0, -1]], (left, right - 1), atol=1)
    assert 0.45 < map_[31:33, left + 2 : right - 2].min() < 0.8  # joint space: four of 192 rows
    assert not map_[:10].any() and not map_[:, : left - 4].any() and not map_[:, right + 4 :].any()
    assert np.array_equal(np.round(map_ * 2**12), map_ * 2**12)


def test_a_channel_without_a_knee_is_empty(pixels, monkeypatch):
    monkeypatch.setattr(segmenter, "segment", found(np.zeros((SIDE, SIDE), int)))
    done = preprocess_native(pixels, spec("channel"))
    assert done.region == "no joint space" and done.image.shape == (64, 64, 2)
    assert np.array_equal(done.image[..., :1], preprocess(pixels, PreprocessSpec(image_size=64)))
    assert not done.image[..., 1].any()


@pytest.mark.parametrize("how", ["crop", "mask"])
def test_where_it_is_unsure_the_image_goes_on_as_it_is_and_says_why(pixels, monkeypatch, how):
    monkeypatch.setattr(segmenter, "segment", found(np.zeros((SIDE, SIDE), int)))
    done = preprocess_native(pixels, spec(how))
    assert done.region == "no joint space"
    assert np.array_equal(done.image, preprocess(pixels, PreprocessSpec(image_size=64)))


def test_without_a_region_the_spec_is_as_before_and_nothing_is_looked_for(pixels):
    plain = PreprocessSpec()
    assert "region" not in plain.to_dict() and PreprocessSpec.from_json(plain.to_json()) == plain
    assert preprocess_native(pixels, plain).region == ""


def test_the_spec_travels_with_the_weights_sha256():
    given = PreprocessSpec(region=region_spec("mask", ""))
    assert PreprocessSpec.from_json(given.to_json()) == given
    assert given.to_dict()["region"] == {"how": "mask", "weights": shipped_sha256()}


@pytest.mark.slow
def test_weights_of_others_are_kept_where_the_spec_finds_them(tmp_path, monkeypatch, pixels):
    monkeypatch.setenv("OSTEOJAX_CACHE", str(tmp_path / "cache"))
    write_weights(tmp_path / "mine.safetensors", make_unet(3), {})
    region = region_spec("crop", str(tmp_path / "mine.safetensors"))
    (tmp_path / "mine.safetensors").unlink()
    done = preprocess_native(pixels, PreprocessSpec(image_size=64, region=region))
    assert done.region != "found" and kept(region.weights).parent == tmp_path / "cache/segmenters"


def test_weights_that_are_not_here_or_not_themselves_are_told(tmp_path, monkeypatch, pixels):
    monkeypatch.setenv("OSTEOJAX_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="is not here; copy its unet"):
        preprocess(pixels, PreprocessSpec(region=RegionSpec("crop", "1" * 64)))
    write_weights(kept("2" * 64), make_unet(), {})
    with pytest.raises(UserError, match="not what its name says"):
        preprocess(pixels, PreprocessSpec(region=RegionSpec("crop", "2" * 64)))
    with pytest.raises(UserError, match="which is no SHA-256"):
        preprocess(pixels, PreprocessSpec(region=RegionSpec("crop", "../../etc/passwd")))


PHANTOM = PhantomConfig(image_size=(160, 160))


def test_the_shipped_weights_find_the_knee_of_a_phantom():
    image = np.rint(255 * generate_image("healthy", patient=4, config=PHANTOM).noisy)
    assert preprocess_native(image, PreprocessSpec(region=region_spec("crop", ""))).region == "found"


def test_the_answer_is_the_same_to_the_bit_whatever_the_threads_and_devices():
    image = generate_image(
        "healthy", patient=4, config=dataclasses.replace(PHANTOM, image_size=(SIDE, SIDE))
    ).clean
    here = segmenter.segment(image, shipped_sha256())
    program = (
        "import hashlib, sys, numpy as np\n"
        "from data_prep.region.segment import segment\n"
        "image = np.frombuffer(sys.stdin.buffer.read(), np.float32).reshape(192, 192)\n"
        f"print(hashlib.sha256(segment(image, '{shipped_sha256()}').tobytes()).hexdigest())\n"
    )
    plain = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-c", program], input=image.tobytes(), env=plain, capture_output=True, check=True
    )
    assert done.stdout.decode().strip() == hashlib.sha256(here.tobytes()).hexdigest()
    assert here.shape == (SIDE, SIDE, 4) and np.allclose(here.sum(-1), 1, atol=1e-5)


def config(**more):
    made = configs.load("configs/prep/prep.py")
    made.phantom.update({"n_patients": 6, "images_per_patient": (1, 1), "image_size": (96, 96)})
    made.image_size, made.denoise.name, made.region.how = 48, "none", "crop"
    made.split.update({"train": 1.0, "val": 0.0, "test": 0.0})
    made.audit.shortcuts = False
    made.update(ConfigDict(more))
    return made


def manifest(folder):
    with (folder / "manifest.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.slow
def test_a_preparation_records_each_answer_and_is_the_same_with_workers(tmp_path):
    for name, workers in (("one", 0), ("two", 2)):
        prepare("phantom", tmp_path / name, config(workers=workers))
    rows = manifest(tmp_path / "one")
    assert {row["region"] for row in rows} >= {"found"}
    assert (tmp_path / "one/manifest.csv").read_bytes() == (tmp_path / "two/manifest.csv").read_bytes()
    counted = sum(row["region"] == "found" for row in rows)
    page = (tmp_path / "one/report.html").read_text()
    section = re.sub("<[^>]+>", " ", page[page.index(">Region of interest<") :][:2000])
    assert re.search(rf"found\s+{counted}\s", section)


def test_without_a_region_the_manifest_has_no_such_column(tmp_path):
    made = config(workers=0)
    made.region.how = "none"
    prepare("phantom", tmp_path / "data", made)
    assert "region" not in manifest(tmp_path / "data")[0]
    assert "Region of interest" not in (tmp_path / "data/report.html").read_text()


def test_a_wrong_setting_is_told_before_anything_is_written(tmp_path):
    made = config()
    made.region.how = "cut"
    with pytest.raises(UserError, match=r"region\.how"):
        prepare("phantom", tmp_path / "data", made)
    made.region.how, made.region.weights = "crop", str(tmp_path / "none")
    with pytest.raises(UserError, match=r"region\.weights=.*none cannot be read"):
        prepare("phantom", tmp_path / "data", made)
    assert not (tmp_path / "data").exists()


@pytest.mark.slow
def test_the_command_trains_and_its_file_is_taken_by_preparation(tmp_path, monkeypatch):
    monkeypatch.setenv("OSTEOJAX_CACHE", str(tmp_path / "cache"))
    few = ["--config.legs=2", "--config.steps=2", "--config.batch_size=8", "--config.warmup_steps=1"]
    train = ["train-segmenter", f"--workdir={tmp_path / 'run'}", *few]
    assert main.run(train) == 0
    first = (tmp_path / "run/unet.safetensors").read_bytes()
    assert main.run(train) == 0 and (tmp_path / "run/unet.safetensors").read_bytes() == first
    # Another run goes on from them: its first step, whose rate is 0, changes the statistics alone.
    on = ["train-segmenter", f"--workdir={tmp_path / 'on'}", *few, "--config.steps=1", "--config.seed=1"]
    on += ["--config.warmup_steps=0", "--config.learning_rate=1e-9"]
    assert main.run([*on, f"--config.init={tmp_path / 'run/unet.safetensors'}"]) == 0
    before, after = (
        safetensors.numpy.load_file(tmp_path / name / "unet.safetensors") for name in ("run", "on")
    )
    np.testing.assert_allclose(after["last/kernel"], before["last/kernel"], atol=1e-3)
    made = config(workers=0)
    made.region.weights = str(tmp_path / "run/unet.safetensors")
    prepare("phantom", tmp_path / "data", made)
    assert len(manifest(tmp_path / "data")) == 6
