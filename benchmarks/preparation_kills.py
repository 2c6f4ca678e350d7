"""Kills workers and parents of a preparation at random moments, and compares what comes of it with a run left alone.

    PYTHONPATH=. python benchmarks/preparation_kills.py [--moments=20] [--seed=0] [--spark]

Prints a table: runner, victim, moment in seconds, images finished by then, whether the data set is equal to the bit.
A killed parent must leave nothing at --out, and is started again with the same command, or all of it.
"""

import argparse
import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tests.data_prep.beam.source import differing, make_source
from tests.data_prep.beam.spark import RUNNER, spark_cluster
from tests.data_prep.beam.trouble import make_trouble

FLAGS = (
    *("--config.denoise.backend=none", "--config.image_size=64", "--config.quarantine.max_fraction=0.3"),
    *("--config.audit.shortcuts=False", "--config.workers=2"),
)


def start(source: Path, out: Path, flags: tuple[str, ...], environment: dict[str, str]) -> subprocess.Popen:
    """A preparation in a process of its own."""
    command = [sys.executable, "-m", "osteojax", "prep", f"--source={source}", f"--out={out}", *FLAGS, *flags]
    return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)


def worker_of(parent: psutil.Process, spark: bool) -> psutil.Process | None:
    """A process that does its work: its own child, or an executor of the cluster."""
    if spark:
        found = [p for p in psutil.process_iter() if "CoarseGrainedExecutorBackend" in _command(p)]
    else:
        found = [p for p in parent.children(recursive=True) if "spawn_main" in _command(p)]
    return random.choice(found) if found else None


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def main() -> int:
    """Runs it; 1 where anything differed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--spark", action="store_true", help="Beam on a Spark cluster of this machine")
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    wrong = 0
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        source, path = make_source(folder / "source", 15), make_trouble(folder / "site")
        environment = {**os.environ, "PYTHONPATH": path, "OSTEOJAX_TEST_SLOW": "1"}
        beam: tuple[str, ...] = ("--runner=beam",)
        if arguments.spark:
            environment |= stack.enter_context(spark_cluster(folder / "cluster", path))
            beam = ("--runner=beam", RUNNER)
        lasted = {}
        for runner, flags in (("local", ()), ("beam", beam)):
            began = time.monotonic()
            assert start(source, folder / runner, flags, environment).wait() == 0
            lasted[runner] = time.monotonic() - began
        assert not differing(folder / "local", folder / "beam")
        print(
            "| runner | killed | after | images by then | equal to the bit |\n|---|---|---|---|---|",
            flush=True,
        )
        for moment in range(arguments.moments):
            runner, victim = ("local", "beam")[moment % 2], ("worker", "parent")[moment // 2 % 2]
            out, flags = folder / f"out{moment}", beam if runner == "beam" else ()
            after = random.uniform(0, lasted[runner])
            run = start(source, out, flags, environment)
            time.sleep(after)
            parent = psutil.Process(run.pid)
            target = parent if victim == "parent" else worker_of(parent, arguments.spark and runner == "beam")
            cache = folder / f"{out.name}.partial" / "cache"
            images = sum(".described" not in path.name for path in cache.glob("*.npz"))
            with contextlib.suppress(psutil.NoSuchProcess):
                if target is not None:
                    target.kill()
            status = run.wait()
            if out.exists():  # it is whole, or the comparison says so
                status = 0
            elif victim == "parent" and status != 0:
                status = start(source, out, flags, environment).wait()
            equal = status == 0 and not differing(folder / "local", out)
            wrong += not equal
            shown = victim if target is not None else f"{victim} (none was there)"
            print(
                f"| {runner} | {shown} | {after:.1f} s | {images} | {'yes' if equal else 'NO'} |", flush=True
            )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
