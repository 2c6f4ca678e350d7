"""The page of augmented images: self-contained, and of the pixels that the train step computes."""

import base64
import io
import re

import jax
import numpy as np
import pytest
import small
from PIL import Image

from osteojax.cli.main import run
from osteojax.data.dataset import PreparedDataset
from osteojax.report.augmented import STEPS
from osteojax.train import augment


@pytest.fixture(scope="module")
def page(prepared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    config = small.quick_config(prepared)
    config.augment.update(flip=True, gain=0.3)
    file = small.write_config(folder / "config.py", config)
    assert run(["show-augment", f"--config={file}", f"--out={folder / 'page.html'}"]) == 0
    return (folder / "page.html").read_text()


def pictures(page):
    found = re.findall(r'<img src="data:image/png;base64,([^"]+)"[^>]* alt="([^"]+)"', page)
    return [(alt, np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))) for data, alt in found]


def test_the_page_needs_nothing_else_and_shows_each_class_and_each_augmentation(page):
    assert "http" not in re.sub(r"data:image/png;base64,[^\"]+", "", page) and "<script" not in page
    for title in ("All together", "Flip alone", "Gain alone"):
        assert title in page
    shown = pictures(page)
    assert len(shown) == 3 * 3 * (1 + STEPS)
    assert {alt.split(",")[0] for alt, _ in shown} == set(small.CLASSES)


def test_the_pictures_are_those_of_the_train_step(page, prepared):
    source = PreparedDataset.open(prepared).source("train")
    firsts = {}
    for example in source:
        firsts.setdefault(example["label"], example["image"])
    images = np.stack(list(firsts.values()))
    key = jax.random.split(jax.random.fold_in(jax.random.key(0), 4))[0]
    expected = augment.apply(key, jax.numpy.asarray(images), augment.chain({"flip": True, "gain": 0.3}))
    shown = pictures(page)[: 3 * (1 + STEPS)]
    for row in range(3):
        assert np.abs(shown[row * (1 + STEPS)][1] - 255.0 * images[row, ..., 0]).max() <= 0.51
        alt, picture = shown[row * (1 + STEPS) + 1 + 4]
        assert alt.endswith("step 4")
        assert np.abs(picture - 255.0 * np.asarray(expected)[row, ..., 0]).max() <= 0.51


def test_a_wrong_key_is_one_sentence(prepared, tmp_path, capsys):
    file = small.write_config(tmp_path / "config.py", small.quick_config(prepared))
    out = tmp_path / "page.html"
    assert run(["show-augment", f"--config={file}", f"--out={out}", "--config.augment.rand_count=99"]) == 2
    assert "rand_count=99" in capsys.readouterr().err and not out.exists()
