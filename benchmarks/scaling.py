"""Communication of one train step over 1, 2, 4 and 8 devices, read from the compiled program.

    python benchmarks/scaling.py [--config=configs/train/paper_resnet50.py] [--config.key=value ...]

The devices are simulated on this machine's CPU, where time means nothing; the bytes that the program sends are those
of any platform with the same partitioning. They stand beside the lower bound of a ring all-reduce of the gradient. What
is above it is batch norm over the global batch, whose sums and their gradients are reduced too.
"""

import argparse
import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax

from osteojax import config as configs
from osteojax.compile_check.program import compile_program, ring_bound_bytes
from osteojax.devices.mesh import make_mesh


def main() -> None:
    """Compiles for each number of devices and prints a row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="configs/train/paper_resnet50.py")
    arguments, overrides = parser.parse_known_args()
    # XLA's own convolutions: they compile quickly, and the formulation changes nothing in what is sent.
    config = configs.load(arguments.config, ["--config.model.conv_impl=native", *overrides])
    print(f"{config.model.name}, learning: {config.preset}, global batch {config.data.batch_size}")
    print(f"{'devices':>7} {'collectives':>11} {'sent by each':>13} {'lower bound':>13} {'ratio':>6}")
    for n in (1, 2, 4, 8):
        program = compile_program(config, make_mesh(n, 1, jax.devices()[:n]))
        found = program.compiled.collectives if program.compiled else ()
        sent, bound = sum(c.sent for c in found), ring_bound_bytes(program.gradient_bytes, n)
        ratio = f"{sent / bound:.3f}" if bound else "-"
        print(f"{n:>7} {len(found):>11} {sent / 1e6:>10.3f} MB {bound / 1e6:>10.3f} MB {ratio:>6}")


if __name__ == "__main__":
    main()
