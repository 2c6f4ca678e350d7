"""Fixtures of training."""

import pytest


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Where activations of frozen prefixes are kept: a folder of the test's own, which does not exist yet."""
    monkeypatch.setenv("OSTEOJAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "prefix"
