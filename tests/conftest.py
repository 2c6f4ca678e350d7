"""Shared by all tests: eight simulated devices, one place that finds ../shared."""

import os
from pathlib import Path

# Before anything imports jax: the sharding tests need several devices on one CPU.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    ).strip()

# Two workers of pytest have two cores: threads of OpenMP and BLAS that wait for one another take three times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# The same small programs are compiled again and again, in this process and in those that the tests start.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).resolve().parents[1] / ".cache" / "jax")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import pytest
from jaxtyping import install_import_hook
from threadpoolctl import threadpool_limits

threadpool_limits(1)  # of what a plugin has loaded before

# In the tests the shapes and dtypes of the public seams are checked at every call.
CHECKED = (
    "data_prep.preprocess",
    "osteojax.explain", "osteojax.metrics", "osteojax.run.inference", "osteojax.train.augment",
    "osteojax.train.augmentations", "osteojax.train.losses",
)  # fmt: skip
install_import_hook(CHECKED, "beartype.beartype")

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and weights, or a skip that says that it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"no real data: {SHARED} does not exist")
    return SHARED
