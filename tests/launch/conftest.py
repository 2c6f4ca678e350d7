"""Stand-ins for what launch scripts call: they note their arguments and fail as the real ones do."""

import os
import stat
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "osteojax"))

import small


class StandIns:
    """Executables in a folder of their own, first on PATH."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()

    def write(self, name, body):
        """`body` is shell, done at every call; its arguments are a line of `$calls`."""
        path = self.folder / name
        head = f'calls={self.folder}/{name}.calls\necho "${{*//$\'\\n\'/ }}" >> "$calls"'
        path.write_text(f"#!/bin/bash\n{head}\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def calls(self, name):
        """The arguments of each call."""
        path = self.folder / f"{name}.calls"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def stand_ins(tmp_path, monkeypatch):
    made = StandIns(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{made.folder}:{os.environ['PATH']}")
    monkeypatch.setenv("PAUSE", "0")
    return made


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """Three splits whose sizes no batch size divides."""
    return small.write_dataset(
        tmp_path_factory.mktemp("prepared") / "data", {"train": 22, "val": 7, "test": 11}
    )
