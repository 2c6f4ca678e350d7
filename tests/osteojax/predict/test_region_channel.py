"""A dataset with the region as a second channel through all that is done with a run."""

import csv

import jax
import numpy as np
import pytest
from PIL import Image

from data_prep.phantom import PhantomConfig, generate_image
from data_prep.prepare import prepare
from data_prep.preprocess import PreprocessSpec, preprocess_file
from osteojax import config as configs
from osteojax.cli import main
from osteojax.data.dataset import PreparedDataset
from osteojax.export.read import open_exported
from osteojax.run.open import open_run
from tests.osteojax import small


@pytest.mark.slow
def test_prepared_trained_explained_exported_and_predicted(tmp_path):
    config = configs.load("configs/prep/prep.py")
    config.phantom.update({"n_patients": 24, "images_per_patient": (1, 1), "image_size": (128, 128)})
    config.image_size, config.denoise.name, config.region.how, config.workers = 32, "none", "channel", 0
    prepare("phantom", tmp_path / "data", config)
    dataset = PreparedDataset.open(tmp_path / "data")
    assert dataset.image_shape == (32, 32, 2)
    example = dataset.source("train")[0]
    spec = PreprocessSpec.from_dict(dataset.preprocessing)
    file = next(
        path for path in (tmp_path / "data/phantom").rglob("*") if path.name == example["file"].decode().split("/")[-1]
        and "clean" not in path.parts
    )  # fmt: skip
    assert np.array_equal(preprocess_file(file, spec), example["image"]) and example["image"][..., 1].any()

    train = small.quick_config(tmp_path / "data")
    train.augment.update({"rotate": 10.0, "gain": 0.2})
    page = small.write_config(tmp_path / "config.py", train)
    run = str(tmp_path / "run")
    assert main.run(["train", f"--config={page}", f"--workdir={run}"]) == 0
    assert main.run(["evaluate", f"--workdir={run}"]) == 0
    assert main.run(["report", f"--workdir={run}"]) == 0
    assert main.run(["export", f"--workdir={run}", f"--out={tmp_path / 'export'}"]) == 0
    opened, exported = open_run(run), open_exported(tmp_path / "export")
    images = np.stack([dataset.source("train")[k]["image"] for k in range(2)])
    padded = np.concatenate([images] * jax.device_count())
    logits = np.asarray(opened.forward(padded))[:2]
    np.testing.assert_allclose(exported.logits(images), logits, atol=1e-4)
    without = images * np.array([1, 0], np.float32)
    assert np.abs(exported.logits(without) - logits).max() > 1e-4  # the map is looked at

    film = generate_image("healthy", patient=3, config=PhantomConfig(image_size=(128, 128))).noisy
    Image.fromarray(np.rint(255 * film).astype(np.uint8)).save(tmp_path / "film.png")
    out = tmp_path / "answers.csv"
    explained = f"--explain={tmp_path / 'maps'}"
    assert (
        main.run(["predict", f"--workdir={run}", str(tmp_path / "film.png"), f"--out={out}", explained]) == 0
    )
    with out.open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert float(row["healthy"] if "healthy" in row else row["p_healthy"]) > 0
