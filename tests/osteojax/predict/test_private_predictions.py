"""Nothing of a header is told behind the preparation: by training, evaluation, prediction and the pages."""

import logging

import cv2
import numpy as np
import pytest
import small
from PIL import Image

from data_prep.preprocess import PreprocessSpec
from osteojax.cli.main import run as command
from osteojax.predict.explain import explain_files
from osteojax.run.open import open_run
from osteojax.train.loop import train
from tests.data_prep.decode.marked import MARKER, broken, leaks, marked, odd_presentation, pictures
from tests.data_prep.test_privacy import QUICK, telling, told


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files that tell everything, whole and broken."""
    folder = tmp_path_factory.mktemp("files")
    pixels = np.random.default_rng(5).integers(0, 4096, (48, 40))
    whole = marked(pixels, valid=True)
    found = {
        "good.dcm": whole,
        "odd.dcm": odd_presentation(pixels),
        "invalid.dcm": marked(pixels, valid=False),
    }
    found |= broken(whole, pixels) | pictures((pixels // 16).astype(np.uint8))
    for name, data in found.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    data = small.write_dataset(tmp_path_factory.mktemp("data") / "d", {"train": 24, "val": 12, "test": 12})
    folder = tmp_path_factory.mktemp("run")
    train(small.quick_config(data), folder)
    return folder


@pytest.mark.parametrize("table", ["answers.csv", "answers.json"])
def test_answers_tell_nothing_of_headers(workdir, files, tmp_path, capfd, caplog, table):
    out = tmp_path / "out"
    out.mkdir()
    with caplog.at_level(logging.DEBUG):
        status = command([
            "predict", f"--workdir={workdir}", str(files), f"--out={out / table}", f"--explain={out / 'maps'}",
        ])  # fmt: skip
    written = capfd.readouterr()
    assert status == 1 and "good.dcm" in written.out + (out / table).read_text()
    assert "no plain radiograph" in (out / table).read_text()
    assert told(out) == [] and leaks((written.out + written.err + caplog.text).encode()) == []
    assert len(list((out / "maps").iterdir())) > 5


def test_a_structured_report_that_cannot_be_written_tells_nothing(workdir, files, tmp_path, capfd):
    """Reports carry identifiers, which is what they are for; what is said of those that fail does not."""
    pytest.importorskip("highdicom")
    command(["predict", f"--workdir={workdir}", str(files), f"--sr={tmp_path / 'sr'}"])
    written = capfd.readouterr()
    assert "cannot be carried over" in written.out + written.err or "no usable" in written.out + written.err
    assert leaks((written.out + written.err).encode()) == []


def test_a_map_is_drawn_over_the_masked_picture(workdir, tmp_path):
    grey = np.full((80, 200), 60, np.uint8) + np.arange(200, dtype=np.uint8)[None] // 4
    lettered = cv2.putText(
        grey.copy(), "DOE JANE", (20, 30), cv2.FONT_HERSHEY_SIMPLEX, 0.6, 255, 1, cv2.LINE_AA
    )
    Image.fromarray(lettered).save(tmp_path / "a.png")
    brightest = {}
    for burned_in in ("keep", "mask"):
        spec = PreprocessSpec(image_size=small.SIZE, burned_in=burned_in)
        (path,) = explain_files(open_run(workdir), spec, [(tmp_path / "a.png", 0)], tmp_path / burned_in)
        drawn = np.asarray(Image.open(path).convert("L"), int)[10:40, 15:150]
        brightest[burned_in] = np.abs(np.diff(drawn, axis=1)).max()
    assert brightest["mask"] < 70 < 100 < brightest["keep"]


@pytest.mark.slow
def test_the_whole_way_tells_nothing(tmp_path, capfd, caplog):
    source, out = telling(tmp_path / "in"), tmp_path / "out"
    out.mkdir()
    with caplog.at_level(logging.DEBUG):
        assert command(["prep", f"--source={source}", f"--out={out / 'data'}", *QUICK]) == 0
        config = small.write_config(out / "config.py", small.quick_config(out / "data"))
        for name in ("train", "evaluate", "report"):
            flags = [f"--config={config}"] if name == "train" else []
            assert command([name, f"--workdir={out / 'run'}", *flags]) == 0, name
        command(["predict", f"--workdir={out / 'run'}", str(source), f"--out={out / 'answers.csv'}"])
    written = capfd.readouterr()
    assert told(out) == [] and leaks((written.out + written.err + caplog.text).encode()) == []
    predictions = (out / "run/eval/test/predictions.csv").read_text()
    assert "dicom-" in predictions and MARKER not in predictions
