# ruff: noqa: E402 (the path is set before anything is imported)
"""The 3x3 convolutions of ResNet-50 on this CPU, in every formulation: why `auto` chooses as it does.

    taskset -c 0 python benchmarks/convolution.py [--batch 16]

Milliseconds, the fastest of several calls, the formulations alternately: forwards, and the gradient of the kernel.
"""

import argparse
import os
import sys
import time
from functools import partial
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from osteojax.devices.host_memory import keep_freed_memory

keep_freed_memory()

import jax
import numpy as np

from osteojax.models.layers import winograd
from osteojax.models.layers.conv2d import conv2d

SHAPES = ((56, 64), (28, 128), (14, 256), (7, 512))
PADDING = ((1, 1), (1, 1))
STRIPS = {
    "winograd, all tiles at once": lambda kernel, rows: rows,
    "one row at a time": lambda kernel, rows: 1,
}


def forward(x, kernel, dy, impl):
    """The convolution in a formulation."""
    return conv2d(x, kernel, padding=PADDING, impl=impl)


def kernel_gradient(x, kernel, dy, impl):
    """The gradient of its kernel."""
    return jax.vjp(lambda kernel: forward(x, kernel, dy, impl), kernel)[1](dy)


def compiled(function, operands):
    """The function in each formulation; Winograd's with all rows of tiles at once, and with one at a time."""
    ways = {
        impl: jax.jit(partial(function, impl=impl)).lower(*operands).compile()
        for impl in ("native", "matmul")
    }
    chosen = winograd._strip_rows
    for name, winograd._strip_rows in STRIPS.items():
        # A lambda of its own each time: jit would take the other's program for the same function.
        ways[name] = jax.jit(lambda *a: function(*a, impl="winograd")).lower(*operands).compile()
    winograd._strip_rows = chosen
    ways["auto"] = jax.jit(partial(function, impl="auto")).lower(*operands).compile()
    return ways


def main():
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    names = ["native", "matmul", *STRIPS, "auto"]
    print("| | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
    for function in (forward, kernel_gradient):
        for size, channels in SHAPES:
            x, dy = rng.random((2, options.batch, size, size, channels), np.float32)
            operands = jax.device_put((x, rng.random((3, 3, channels, channels), np.float32), dy))
            ways = compiled(function, operands)
            seconds = dict.fromkeys(ways, np.inf)
            for _ in range(options.rounds):
                for name, way in ways.items():
                    began = time.perf_counter()
                    jax.block_until_ready(way(*operands))
                    seconds[name] = min(seconds[name], time.perf_counter() - began)
            cells = " | ".join(f"{1e3 * seconds[name]:.0f}" for name in names)
            what = function.__name__.replace("_", " ")
            print(f"| {size}x{size}x{channels}, {what} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
