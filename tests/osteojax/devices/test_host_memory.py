"""Memory that is kept between steps."""

import subprocess
import sys
from platform import libc_ver

import pytest

FAULTS = """
import resource
from osteojax.devices.host_memory import keep_freed_memory
if {keep}: assert keep_freed_memory()
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


@pytest.mark.skipif(libc_ver()[0] != "glibc", reason="the C library is not glibc")
@pytest.mark.slow
def test_kept_memory_is_not_faulted_in_again():
    """64 MiB are 16384 pages of 4 KiB (or 32 of 2 MiB, where the kernel gives huge pages to everyone)."""

    def run(keep):
        code = FAULTS.format(keep=keep)
        return int(
            subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
        )

    kept = run(True)
    assert kept < 20
    assert kept < run(False)
