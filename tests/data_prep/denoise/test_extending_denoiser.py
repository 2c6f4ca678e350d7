"""The denoiser of the page on extending does what the page says."""

import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from scipy import ndimage
from scipy.signal import wiener

from data_prep.denoise.registry import DENOISERS, DenoiseSpec
from data_prep.prepare import prepare
from data_prep.preprocess import PreprocessSpec, preprocess
from osteojax import config as configs
from osteojax.errors import UserError

PAGE = Path(__file__).resolve().parents[3] / "docs" / "extending.md"


@pytest.fixture
def example(monkeypatch):
    """Registers the page's denoiser for one test."""
    section = PAGE.read_text().split("\n## A denoiser\n")[1].split("\n## ")[0]
    (code,) = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert 10 <= len([line for line in code.splitlines() if line.strip()]) <= 40
    module = types.ModuleType("lee")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with DENOISERS.temporary():
        exec(compile(code, str(PAGE), "exec"), module.__dict__)
        yield
    assert "lee" not in DENOISERS


def noisy(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    clean = 128 + 400 * ndimage.gaussian_filter(rng.normal(size=(64, 56)), 6)
    return np.rint(clean + rng.normal(0, 12, clean.shape)).clip(0, 255).astype(np.uint8)


def test_a_small_source_is_prepared_with_it(example, tmp_path):
    for c, label in enumerate(("healthy", "osteopenia", "osteoporosis")):
        (tmp_path / "in" / label).mkdir(parents=True)
        for i in range(8):
            Image.fromarray(noisy(10 * c + i)).save(tmp_path / "in" / label / f"{i}.png")
    flags = ["denoise.name=lee", "denoise.settings={'window': 7}", "denoise.sigma=12.0"]
    flags += ["image_size=32", "workers=0", "audit.shortcuts=False"]
    config = configs.load("configs/prep/prep.py", [f"--config.{flag}" for flag in flags])
    result = prepare(tmp_path / "in", tmp_path / "out", config)
    assert sum(result.images.values()) == 24
    builder = tfds.builder_from_directory(str(tmp_path / "out"))
    spec = PreprocessSpec.from_dict(builder.info.metadata["preprocessing"])
    assert spec.denoise == DenoiseSpec("lee", {"window": 7})
    example = next(iter(builder.as_data_source("train")))
    pixels = np.asarray(Image.open(tmp_path / "in" / example["file"].decode()), np.float32)
    # scipy has it under Wiener's name, and pads with zeros; so much for the border.
    denoised = DenoiseSpec.of("lee", {"window": 7})(pixels, 12.0)
    np.testing.assert_allclose(denoised[3:-3, 3:-3], wiener(pixels, 7, 12.0**2)[3:-3, 3:-3], rtol=1e-5)
    np.testing.assert_array_equal(example["image"], preprocess(denoised, PreprocessSpec(image_size=32)))
    assert (example["image"] != preprocess(pixels, PreprocessSpec(image_size=32))).any()


def test_it_keeps_the_promises_of_the_registry(example):
    pixels = noisy(0).astype(np.float32)
    clean = ndimage.gaussian_filter(pixels, 2)
    weak, strong = (DenoiseSpec.of("lee", {"window": window})(pixels, 12.0) for window in (2, 5))
    assert strong.shape == pixels.shape and strong.dtype == np.float32
    assert np.abs(strong - clean).mean() < np.abs(weak - clean).mean() < np.abs(pixels - clean).mean()
    scaled = DenoiseSpec.of("lee", {})(pixels * 1000, 12000.0)
    np.testing.assert_allclose(scaled / 1000, strong, rtol=1e-4)
    np.testing.assert_array_equal(DenoiseSpec.of("lee", {})(pixels, 0.0), pixels)


@pytest.mark.parametrize("settings", [{"window": 0}, {"window": "wide"}, {"windows": 5}])
def test_wrong_settings_are_one_sentence(example, settings):
    with pytest.raises(UserError, match=r"denoise\.window"):
        DenoiseSpec.of("lee", settings)
