"""How fast batches of a prepared dataset reach the train step, with no step behind them: images per CPU-second.

    python benchmarks/loader.py [--examples 4096] [--size 224] [--batch 64] [--seconds 3]

Each way reads shuffled batches through the loader that training uses, in one thread, from a dataset of smooth random
images that it writes first (224 x 224, 12 bits). A CPU-second of this process is one core's second, so that a host's
rate is the figure times the cores that it can spare. At the end a profile of the way that `data.hold=auto` takes.
"""

import argparse
import cProfile
import io
import pstats
import tempfile
import time
from pathlib import Path

import numpy as np
from train import write_dataset


def rate(batches, batch, seconds):
    """Images per CPU-second of an endless iterator."""
    for _ in range(3):
        next(batches)
    began, count = time.process_time(), 0
    while time.process_time() - began < seconds:
        next(batches)
        count += batch
    return count / (time.process_time() - began)


def main():
    """Prints a line for each way."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--examples", type=int, default=4096)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=3.0)
    arguments = parser.parse_args()

    from osteojax.data import memory
    from osteojax.data.batches import BatchPlan, train_iterator
    from osteojax.data.dataset import PreparedDataset
    from osteojax.train.feed import Rows

    plan = BatchPlan(arguments.examples, arguments.batch)

    def batches(source):
        return train_iterator(source, plan, seed=0, steps=10**6, threads=1)

    with tempfile.TemporaryDirectory() as folder:
        write_dataset(Path(folder) / "data", arguments.examples, arguments.size)
        split = PreparedDataset.open(Path(folder) / "data").source("train")
        size = sum(path.stat().st_size for path in (Path(folder) / "data").glob("*record*"))
        print(f"{size / arguments.examples / 1e3:.1f} kB an image on disk")
        began = time.process_time()
        packed = memory.hold(split, pixels=True)
        decoding = arguments.examples / (time.process_time() - began)
        whole = memory.InMemory(*split.read(range(len(split))))
        ways = {
            "from disk, decoded each time": split,
            "held as float32": whole,
            "held as uint16": packed,
            "held on the device: row numbers": Rows(split.labels(), 1),
        }
        print(f"{'decoded once, at the start':34}{decoding:10,.0f} images a CPU-second")
        for name, source in ways.items():
            found = rate(batches(source), arguments.batch, arguments.seconds)
            print(f"{name:34}{found:10,.0f} images a CPU-second")
        order = np.random.default_rng(0).integers(0, arguments.examples, (200, arguments.batch))
        began = time.process_time()
        for rows in order:
            packed.images[rows]
        alone = order.size / (time.process_time() - began)
        print(f"{'copying the uint16 rows alone':34}{alone:10,.0f} images a CPU-second")
        profile = cProfile.Profile()
        # Without a thread of its own: what grain's workers do is not seen by the profiler.
        iterator = train_iterator(packed, plan, seed=0, steps=10**6, threads=0)
        with profile:
            rate(iterator, arguments.batch, 1.0)
        text = io.StringIO()
        pstats.Stats(profile, stream=text).sort_stats("tottime").print_stats(8)
        print("\n".join(text.getvalue().splitlines()[4:]))


if __name__ == "__main__":
    main()
