"""The closed `bm3d` package as a backend: guarded where it is absent or unsafe, and close to our own `np`."""

import sys

import numpy as np
import pytest

from data_prep.denoise.bm3d import bm3d
from osteojax.errors import UserError


def test_absent_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "bm3d", None)
    with pytest.raises(UserError, match=r"pip install 'osteojax\[bm3d\]'"):
        bm3d(np.arange(1024.0).reshape(32, 32), 5.0, backend="package")


def test_sizes_that_end_the_interpreter_are_refused():
    pytest.importorskip("bm3d")
    with pytest.raises(UserError, match="below 16x16"):
        bm3d(np.arange(64.0).reshape(8, 8), 5.0, backend="package")


def test_ours_is_no_worse_than_the_package():
    """On one tile of 64 pixels single groups count; the benchmark holds the bound on whole images."""
    pytest.importorskip("bm3d")
    y, x = np.mgrid[:64, :64]
    clean = 80 + 60 * (x > 30) + 25 * np.sin(0.7 * y)
    noisy = clean + np.random.default_rng(0).normal(0, 20, clean.shape)
    ours, theirs = (bm3d(noisy, 20.0, profile="np", backend=b) for b in ("numba", "package"))
    assert 10 * np.log10(np.mean((theirs - clean) ** 2) / np.mean((ours - clean) ** 2)) > -0.2
