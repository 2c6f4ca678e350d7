"""What the host does between two steps: the training loop around a program that takes next to no time.

    python benchmarks/step_overhead.py [--steps 2048] [--batch 32]

Only the head of a small network learns, from the cached features of the rest, so that a step is a product of a batch
and a matrix of three columns, and what it takes is the loop's own: the order, the batch, the call. Each line trains
for so many steps through `osteojax train`'s own loop and prints the median over its lines of timing.jsonl. At the end
a profile of the loop in the way that `data.hold=auto` takes.
"""

import argparse
import cProfile
import io
import json
import os
import pstats
import statistics
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from train import write_dataset

WAYS = {
    "from disk": {"data.hold": "disk"},
    "held by the host (auto)": {"data.hold": "auto"},
    "held on the device": {"data.hold": "device"},
    "held on the device, 16 steps a call": {"data.hold": "device", "train.steps_per_call": 16},
    "held on the device, 64 steps a call": {"data.hold": "device", "train.steps_per_call": 64},
}
EPOCH = 32  # steps
LINES = 8  # of timing.jsonl, the first of which is not counted


def timing(data, workdir, steps, batch, settings):
    """Medians of what timing.jsonl says of a step, in microseconds."""
    from osteojax import config as configs
    from osteojax.train.loop import train

    config = configs.load("configs/train/paper_resnet50.py")
    config.update(preset="head", init="random")
    config.model.name = "efficientnet_lite0"
    config.data.update(dir=str(data), batch_size=batch)
    config.train.cache_prefix = True
    config.log_every = steps // LINES
    config.eval.split = "none"
    config.checkpoint.every_steps = 10**9
    config.epochs = steps / EPOCH
    config.update_from_flattened_dict(settings)
    train(config, workdir)
    lines = [json.loads(line) for line in (workdir / "timing.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "step_seconds" in line][1:]
    names = ("step_seconds", "data_wait_seconds", "device_wait_seconds")
    return [1e6 * statistics.median(line[name] for line in lines) for name in names]


def main():
    """Prints a line for each way."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=32)
    arguments = parser.parse_args()
    if arguments.steps % (64 * LINES):
        parser.error(f"--steps must be a multiple of {64 * LINES}")
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        os.environ["OSTEOJAX_CACHE"] = str(Path(folder) / "cache")
        write_dataset(data, EPOCH * arguments.batch, 32)
        print(f"{'microseconds a step':38}{'all':>8}{'data':>8}{'device':>8}{'rest':>8}")
        profile = cProfile.Profile()
        for number, (name, settings) in enumerate(WAYS.items()):
            job = (data, Path(folder) / str(number), arguments.steps, arguments.batch, settings)
            whole, waited, device = timing(*job)
            print(
                f"{name:38}{whole:8.0f}{waited:8.0f}{device:8.0f}{whole - waited - device:8.0f}", flush=True
            )
        with profile:
            timing(data, Path(folder) / "profiled", arguments.steps, arguments.batch, {"data.hold": "auto"})
        text = io.StringIO()
        pstats.Stats(profile, stream=text).sort_stats("cumulative").print_stats(
            r"osteojax|grain|jax/_src/(pjit|array)", 24
        )
        print("\n".join(text.getvalue().splitlines()[4:]))


if __name__ == "__main__":
    main()
