"""The page docs/python.md, run as it stands."""

import re
from pathlib import Path

import numpy as np
import small
from PIL import Image

from osteojax.train.loop import train

PAGE = Path(__file__).parents[3] / "docs" / "python.md"


def test_the_page_runs(prepared, tmp_path, capsys):
    train(small.quick_config(prepared), tmp_path / "run")
    rng = np.random.default_rng(0)
    (tmp_path / "files").mkdir()
    Image.fromarray(rng.integers(0, 256, (50, 60), dtype=np.uint8)).save(tmp_path / "files" / "a.png")
    (tmp_path / "files" / "b.png").write_bytes(b"no picture")
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 3 and len(blocks[0].strip().splitlines()) <= 12
    names = {"RUN": str(tmp_path / "run"), "FILES": str(tmp_path / "files")}
    for block in blocks:
        exec(block, names)
    told = capsys.readouterr().out.splitlines()
    assert str(list(small.CLASSES)) in told[0]
    assert "a.png" in told[1] and told[1].endswith("None") and "b.png None None" in told[2]
    value, interval = told[3].split(" ", 1)
    low, high = map(float, interval.strip("[]").split(", "))
    assert low <= float(value) <= high
    assert set(names["known"].conformal.sets(names["probabilities"], "lac").ravel()) <= {True, False}
