"""Preparation end to end: what lands on disk, what is refused, what survives."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from data_prep.errors import UserError
from data_prep.prepare import prepare
from data_prep.preprocess import PreprocessSpec, preprocess
from osteojax import config as configs

CLASSES = ("healthy", "osteopenia", "osteoporosis")


def settings(**changes):
    config = configs.load("configs/prep.py")
    config.denoise.backend = "none"
    config.image_size = 32
    config.workers = 0
    for key, value in changes.items():
        *parents, last = key.split("__")
        node = config
        for parent in parents:
            node = node[parent]
        node[last] = value
    return config


def write_image(path: Path, seed: int) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (48, 40), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture
def folders(tmp_path):
    """Class folders of 10 images a class, no patient ids."""
    root = tmp_path / "source"
    for c, name in enumerate(("Normal", "osteopenia", "Osteoporosis")):
        for i in range(10):
            write_image(root / name / f"{i}.png", 100 * c + i)
    return root


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_the_data_set_holds_what_preprocess_gives(folders, tmp_path):
    out = tmp_path / "out"
    result = prepare(folders, out, settings())
    builder = tfds.builder_from_directory(str(out))
    assert builder.info.features["label"].names == list(CLASSES)
    spec = PreprocessSpec.from_dict(builder.info.metadata["preprocessing"])
    assert builder.info.metadata["fingerprint"] == result.fingerprint
    manifest = {row["id"]: row for row in read_csv(out / "manifest.csv")}
    seen = set()
    for split in builder.info.splits:
        for example in builder.as_data_source(split):
            row = manifest[example["id"].decode()]
            seen.add(row["file"])
            assert (row["split"], row["label"]) == (split, CLASSES[example["label"]])
            pixels = np.asarray(Image.open(folders / row["file"]), np.float32)
            np.testing.assert_array_equal(example["image"], preprocess(pixels, spec))
    assert len(seen) == 30
    assert json.loads((out / "audit.json").read_text())["exact_duplicates"] == []
    assert not (tmp_path / "out.partial").exists()


def test_refuses_to_touch_what_is_there(folders, tmp_path):
    out = tmp_path / "out"
    prepare(folders, out, settings())
    with pytest.raises(UserError, match="overwrite"):
        prepare(folders, out, settings())
    other = tmp_path / "mine"
    write_image(other / "keep.png", 1)
    with pytest.raises(UserError, match="no prepared data set"):
        prepare(folders, other, settings(overwrite=True))
    assert (other / "keep.png").exists()
    prepare(folders, out, settings(overwrite=True, seed=1))
