"""Radiographs of 100 megapixels, the most that is taken by default, go through preparation in bounded memory."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.data_prep.decode.dicom_files import dicom

SIDE = 10_000
MOST = 1.5e9
# In a process of its own, whose children are the workers; KiB.
CODE = """
import json, resource, sys
from osteojax.cli.main import run
status = run(sys.argv[1:])
peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(json.dumps([status, *peaks]))
"""


def write_source(root: Path) -> None:
    """Sixteen bits that no codec makes small, as PNG, TIFF and DICOM, and small pictures so that a split can be."""
    rng = np.random.default_rng(0)
    for folder, name in enumerate(("healthy", "osteopenia", "osteoporosis")):
        (root / name).mkdir(parents=True)
        for number in range(6):
            pixels = rng.integers(0, 256, (40, 40 + folder), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    y, x = np.mgrid[:2500, :2500]
    tile = 30_000 + 9_000 * np.sin(x / 300) * np.cos(y / 200) + rng.normal(0, 2_000, x.shape)
    pixels = np.tile(tile.astype(np.uint16), (SIDE // 2500, SIDE // 2500))
    (root / "healthy" / "large.png").write_bytes(imagecodecs.png_encode(pixels, level=1))
    pixels += 1  # no copy of each other
    tifffile.imwrite(root / "osteopenia" / "large.tif", pixels)
    pixels += 1
    window = {"WindowCenter": 30_000, "WindowWidth": 40_000}
    data = dicom(pixels, 16, Modality="DX", PhotometricInterpretation="MONOCHROME1", **window)
    (root / "osteoporosis" / "large.dcm").write_bytes(data)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts the memory of a process in KiB")
def test_a_hundred_megapixels_take_a_worker_less_than_1500_mb(tmp_path):
    write_source(tmp_path / "source")
    command = [
        sys.executable,
        "-c",
        CODE,
        "prep",
        f"--source={tmp_path / 'source'}",
        f"--out={tmp_path / 'out'}",
    ]
    done = subprocess.run(
        [*command, "--config=configs/prep/prep.py", "--config.workers=1"],
        capture_output=True,
        text=True,
        check=True,
    )
    status, parent, worker = json.loads(done.stdout.splitlines()[-1])
    assert status == 0
    with (tmp_path / "out" / "manifest.csv").open(newline="") as stream:
        large = {row["file"]: row for row in csv.DictReader(stream) if row["width"] == str(SIDE)}
    assert sorted(Path(file).suffix for file in large) == [".dcm", ".png", ".tif"]
    print(f"peaks in MB: parent {parent * 1024 / 1e6:.0f}, worker {worker * 1024 / 1e6:.0f}")
    assert worker * 1024 < MOST and parent * 1024 < MOST
