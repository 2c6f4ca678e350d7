"""XLA's settings on CPU, and memory that is kept."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from osteojax import cpu


def test_options_are_known_to_this_xla_and_change_no_result():
    options = cpu.compiler_options()
    assert options, "the pinned jaxlib does not know the options any more: see osteojax/cpu.py"
    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 14, 14, 64)), jnp.float32)
    moments = lambda x: (x.mean((0, 1, 2)), jnp.square(x).mean((0, 1, 2)))  # noqa: E731
    plain, fast = jax.jit(moments)(x), jax.jit(moments, compiler_options=options)(x)
    np.testing.assert_allclose(plain[1], fast[1], rtol=1e-5)
    np.testing.assert_allclose(plain[0], fast[0], atol=1e-6)


FAULTS = """
import resource
from osteojax import cpu
if {keep}: assert cpu.keep_freed_memory()
import jax, jax.numpy as jnp
step = jax.jit(lambda x: 2 * x + 1)
x = jnp.zeros(2**24)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step(x).block_until_ready()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
# The first calls find nothing free yet.
print(min(faults() for _ in range(20)))
"""


@pytest.mark.skipif(cpu.platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_kept_memory_is_not_faulted_in_again():
    """64 MiB are 16384 pages of 4 KiB (or 32 of 2 MiB, where the kernel gives huge pages to everyone)."""

    def run(keep):
        code = FAULTS.format(keep=keep)
        return int(
            subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
        )

    kept = run(True)
    assert kept < 100
    assert kept < run(False)
