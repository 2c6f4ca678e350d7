"""Fixtures for the engine: a prepared dataset of generated images, and a config of a run that takes seconds."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import small


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """Three splits whose sizes no batch size divides."""
    return small.write_dataset(
        tmp_path_factory.mktemp("prepared") / "data", {"train": 22, "val": 7, "test": 11}
    )


@pytest.fixture
def quick(prepared):
    """A config of six steps on `prepared`."""
    return small.quick_config(prepared)
