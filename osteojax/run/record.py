"""What a run writes about itself: metrics.jsonl, timing.jsonl, TensorBoard events, run.json."""

import datetime
import importlib.metadata
import json
import logging
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.summary.writer.record_writer import RecordWriter

from osteojax import leaky
from osteojax.files import write_atomically

log = logging.getLogger(__name__)


class MetricsWriter:
    """Scalars of a run. Only the first process writes.

    `metrics.jsonl` holds what the computation determines, and is therefore the same, byte by byte, whether or not the
    run was interrupted. `timing.jsonl` holds what the machine determines. TensorBoard gets both. Where a leaky split
    has a part in them, every line of metrics and every tag says so.
    """

    def __init__(self, workdir: Path, *, resume_step: int, mark: leaky.Mark | None = None) -> None:
        self._active = jax.process_index() == 0
        self._marked, self._tag = ({}, "") if mark is None else ({leaky.KEY: mark["reason"]}, f"{leaky.KEY}/")
        if not self._active:
            return
        workdir.mkdir(parents=True, exist_ok=True)
        # What lies behind the checkpoint that the run resumes from will be written again.
        for name in ("metrics.jsonl", "timing.jsonl"):
            _truncate_after(workdir / name, resume_step)
        _truncate_events_after(workdir / "tensorboard", resume_step)
        self._metrics = (workdir / "metrics.jsonl").open("a")
        self._timing = (workdir / "timing.jsonl").open("a")
        self._events = EventFileWriter(str(workdir / "tensorboard"))

    def metrics(self, step: int, scalars: Mapping[str, float]) -> None:
        """Results of the computation at `step`."""
        self._write("_metrics", step, scalars, self._marked)

    def timing(self, step: int, scalars: Mapping[str, float]) -> None:
        """Speed, waiting and memory at `step`."""
        self._write("_timing", step, scalars)

    def _write(
        self, file: str, step: int, scalars: Mapping[str, float], more: Mapping[str, str] | None = None
    ) -> None:
        if not self._active:
            return
        stream = getattr(self, file)
        stream.write(json.dumps({"step": step, **scalars, **(more or {})}) + "\n")
        stream.flush()
        values = [Summary.Value(tag=self._tag + tag, simple_value=value) for tag, value in scalars.items()]
        self._events.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def flush(self) -> None:
        """Brings everything written so far to the disk; called before a checkpoint that counts on it."""
        if self._active:
            os.fsync(self._metrics.fileno())
            self._events.flush()

    def close(self) -> None:
        """Closes the files."""
        if self._active:
            self._metrics.close()
            self._timing.close()
            self._events.close()


def _truncate_after(path: Path, step: int) -> None:
    if not path.exists():
        return
    kept = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            if json.loads(line)["step"] > step:
                continue
        except (ValueError, TypeError, KeyError):  # the line that a killed run was writing
            continue
        kept.append(line + "\n")
    write_atomically(path, "".join(kept))


def _truncate_events_after(folder: Path, step: int) -> None:
    """Writes the events of all files up to a step into one, in place of the files."""
    files = sorted(path for path in folder.glob("events.out.tfevents.*") if not path.name.endswith(".tmp"))
    if not files:
        return
    merged = files[-1].with_name(f"{files[-1].name}.{step}")
    temporary = merged.with_name(f"{merged.name}.tmp")
    with temporary.open("wb") as stream:
        writer = RecordWriter(stream)
        for path in files:
            for raw in RawEventFileLoader(str(path)).Load():  # ends where a killed run was writing
                if Event.FromString(raw).step <= step:
                    writer.write(raw)
        writer.flush()
    temporary.replace(merged)
    for path in files:
        path.unlink()


def run_record() -> dict[str, Any]:
    """When, with what, on what and how this process was started."""
    packages = ("osteojax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    devices = jax.devices()
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(sys.argv),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "platform": devices[0].platform,
        "device_kind": devices[0].device_kind,
        "devices": len(devices),
        "processes": jax.process_count(),
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    here = Path(__file__).resolve().parent
    try:
        found = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None  # installed without its repository
    return found.stdout.strip()


def append_run(workdir: Path, entry: Mapping[str, Any]) -> None:
    """Adds one entry to the list in run.json, one per start of the run."""
    if jax.process_index() == 0:
        path = workdir / "run.json"
        write_atomically(path, json.dumps([*_earlier_runs(path), entry], indent=2) + "\n")


def _earlier_runs(path: Path) -> list[Any]:
    if not path.exists():
        return []
    try:
        runs = json.loads(path.read_text())
        if isinstance(runs, list):
            return runs
    except ValueError:  # no JSON, or no UTF-8
        pass
    aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
    path.rename(aside)
    log.warning("%s is damaged; it is kept as %s, and a new one is begun", path, aside.name)
    return []
