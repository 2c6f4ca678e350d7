"""Runs the runs of a sweep: each in a process of its own, those that are finished never again.

Every run is what a person would type: `osteojax prep`, `train`, `evaluate`. Its output goes to `run.log` in its folder.
"""

import contextlib
import dataclasses
import fcntl
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import ml_collections

from osteojax import config as configs
from osteojax.errors import UserError
from osteojax.files import write_atomically
from osteojax.sweep.plan import Planned, preparation_folder

log = logging.getLogger(__name__)

State = Literal["waiting", "running", "finished", "failed"]
# Of `osteojax train`: stopped by a signal with everything saved, to be started again.
TRY_AGAIN = 75
MOST_RESTARTS = 20
_LINES_SHOWN = 8
_ASKED_EACH = 0.5


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run stands.

    Attributes:
        run: the run.
        state: of it.
        reason: the last lines of its log where it failed.
    """

    run: Planned
    state: State
    reason: str = ""


def status(out: Path, runs: Sequence[Planned]) -> list[Outcome]:
    """How the runs stand, as their folders tell."""
    return [_status(out, run) for run in runs]


def _status(out: Path, run: Planned) -> Outcome:
    folder = out / run.folder
    if is_finished(out, run):
        return Outcome(run, "finished")
    if _is_held(folder / "lock.sweep"):
        return Outcome(run, "running")
    if (folder / "failed").is_file():
        return Outcome(run, "failed", last_lines(folder / "run.log"))
    return Outcome(run, "waiting")


def is_finished(out: Path, run: Planned) -> bool:
    """Whether the run was evaluated, and is the one that the sweep means now."""
    folder = out / run.folder
    try:
        metrics = json.loads((folder / "eval" / "test" / "metrics.json").read_text())
        asked = json.loads((folder / "asked.json").read_text())
    except (OSError, ValueError):
        return False
    return "checkpoint_step" in metrics and asked == _asked(run)


def _asked(run: Planned) -> dict[str, Any]:
    """What decides the result of a run."""
    train = run.config.to_dict()
    train["data"] = {key: value for key, value in train["data"].items() if key not in ("dir", "threads")}
    prep = None if run.prep is None else str(preparation_folder(run.prep))
    return json.loads(json.dumps({"train": train, "prep": prep}))


def execute(
    out: Path,
    runs: Sequence[Planned],
    *,
    source: str | None,
    processes: int = 1,
    osteojax: Sequence[str] = (sys.executable, "-m", "osteojax"),
) -> list[Outcome]:
    """Does what is not done; a run that fails does not stop the others.

    Args:
        out: folder of the sweep.
        runs: of the plan.
        source: of the radiographs, for the runs that prepare.
        processes: how many runs at a time; each gets its share of this machine's cores.
        osteojax: the command line, for tests.

    Returns:
        How each run stands now, in the order of `runs`.
    """
    cores = sorted(os.sched_getaffinity(0))
    if not 1 <= processes <= len(cores):
        raise UserError(f"--processes={processes}: this machine has {len(cores)} cores; each run needs one")
    shares = [cores[i::processes] for i in range(processes)]
    free, preparing = (
        list(shares),
        {str(preparation_folder(r.prep)): threading.Lock() for r in runs if r.prep},
    )
    guard = threading.Lock()

    def one(run: Planned) -> Outcome:
        with guard:
            share = free.pop()
        try:
            return _execute(out, run, source, share, preparing, osteojax)
        finally:
            with guard:
                free.append(share)

    with ThreadPoolExecutor(processes) as pool:
        return list(pool.map(one, runs))


def _execute(
    out: Path,
    run: Planned,
    source: str | None,
    cores: Sequence[int],
    preparing: dict[str, threading.Lock],
    osteojax: Sequence[str],
) -> Outcome:
    folder = out / run.folder
    if is_finished(out, run):
        return Outcome(run, "finished")
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder / "lock.sweep") as is_alone:
        if not is_alone:
            log.info("%s is being run by another process", run.name)
            return Outcome(run, "running")
        (folder / "failed").unlink(missing_ok=True)
        log.info("%s: starting", run.name)
        call = caller(folder / "run.log", cores, osteojax)
        data = run.config.data.dir
        if run.prep is not None:
            prepared = out / preparation_folder(run.prep)
            with preparing[str(preparation_folder(run.prep))]:
                failed = prepare(run.prep, prepared, source, call)
            if failed:
                return _failed(run, folder)
            data = str(prepared)
        config = ml_collections.ConfigDict(run.config.to_dict())
        config.data.dir = data
        file = write_config(folder / "config.py", config)
        train = ["train", f"--config={file}", f"--workdir={folder}"]
        for _ in range(MOST_RESTARTS):
            code = call(train)
            if code != TRY_AGAIN:
                break
        if code or call(["evaluate", f"--workdir={folder}"]):
            return _failed(run, folder)
        write_atomically(folder / "asked.json", json.dumps(_asked(run), indent=1) + "\n")
        log.info("%s: finished", run.name)
        return Outcome(run, "finished")


@contextlib.contextmanager
def alone(path: Path) -> Iterator[bool]:
    """Whether no other process is within for this lock file; who comes second is not kept waiting."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def prepare(
    prep: ml_collections.ConfigDict, prepared: Path, source: str | None, call: Callable[[list[str]], int]
) -> bool:
    """Prepares unless it is done; whether it failed. Other processes wait."""
    prepared.parent.mkdir(parents=True, exist_ok=True)
    with prepared.with_name(f"{prepared.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (prepared / "dataset_info.json").is_file():
            return False
        if source is None:
            raise UserError("this sweep prepares its data: give --source")
        file = write_config(prepared.with_name(f"{prepared.name}.py"), prep)
        return call(["prep", f"--source={source}", f"--out={prepared}", f"--config={file}"]) != 0


def caller(
    log_file: Path,
    cores: Sequence[int],
    osteojax: Sequence[str],
    stop: Callable[[], bool] | None = None,
) -> Callable[[list[str]], int]:
    """Calls the command line on some of the cores, its output appended to a file; the status comes back.

    Args:
        log_file: to append to.
        cores: of this machine.
        osteojax: the command line.
        stop: asked each half second; where it says so the process is told to stop (SIGTERM), and saves.
    """
    environment = os.environ | {"OMP_NUM_THREADS": str(len(cores)), "PYTHONUNBUFFERED": "1"}

    def call(arguments: list[str]) -> int:
        with log_file.open("a") as stream:
            stream.write(f"$ osteojax {' '.join(arguments)}\n")
            stream.flush()
            # The process starts on its share of the cores: XLA makes as many threads as it sees.
            pinned = ["taskset", "-c", ",".join(map(str, cores)), *osteojax, *arguments]
            process = subprocess.Popen(pinned, stdout=stream, stderr=stream, env=environment)
            told = False
            try:
                while True:
                    try:
                        return process.wait(None if stop is None or told else _ASKED_EACH)
                    except subprocess.TimeoutExpired:
                        if stop is not None and stop():
                            told = True
                            process.terminate()
            except BaseException:  # Ctrl-C: what was started must not go on by itself
                process.terminate()
                process.wait()
                raise

    return call


def write_config(path: Path, config: ml_collections.ConfigDict) -> Path:
    """A config file that gives this config: what was run can be run again by hand."""
    text = configs.to_json(config)
    write_atomically(
        path,
        '"""Written by osteojax sweep."""\n\nfrom osteojax import config\n\n\ndef get_config():\n'
        f"    return config.from_json({text!r})\n",
    )
    return path


def _failed(run: Planned, folder: Path) -> Outcome:
    (folder / "failed").touch()
    reason = last_lines(folder / "run.log")
    log.warning("%s failed; the others go on. Its last lines:\n%s", run.name, reason)
    return Outcome(run, "failed", reason)


def last_lines(path: Path) -> str:
    """The end of a log; empty where there is none."""
    if not path.is_file():
        return ""
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return "\n".join(lines[-_LINES_SHOWN:])


def _is_held(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
