"""launch/slurm.sbatch on a real SLURM, with two tasks that train together."""

import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "osteojax"))

import slurm_cluster
import small

ROOT = Path(__file__).resolve().parents[2]
ABSENT = [name for name in slurm_cluster.PROGRAMS if shutil.which(name) is None]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(ABSENT), reason=f"no {', '.join(ABSENT)}: apt-get install slurmctld slurmd slurm-client munge"
    ),
    pytest.mark.skipif(os.getuid() != 0, reason="slurmd starts jobs only as root"),
]


@pytest.fixture(scope="module")
def cluster():
    # Not pytest's own folder: munged refuses a socket whose path is long.
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, slurm_cluster.running(Path(folder)) as made:
        yield made


@pytest.fixture
def submit(cluster, prepared, tmp_path):
    """Starts launch/slurm.sbatch with two tasks; the job's number and its workdir."""
    config = small.quick_config(prepared)
    config.log_every, config.mesh.data = 1, -1
    config.eval.every_steps = 90
    command = tmp_path / "bin" / "osteojax"
    command.parent.mkdir()
    command.write_text(f'#!/bin/bash\nexec {sys.executable} {small.__file__} "$@"\n')
    command.chmod(0o755)
    cluster.environment |= {
        "PATH": f"{command.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
    }
    jobs = []

    def start(*flags, epochs=60.0):
        config.epochs = epochs
        file = small.write_config(tmp_path / "config.py", config)
        script = ("--ntasks-per-node=2", *flags, ROOT / "launch" / "slurm.sbatch")
        workdir = tmp_path / "run"
        jobs.append(cluster.call("sbatch", "--parsable", *script, f"--config={file}", f"--workdir={workdir}"))
        return jobs[-1], workdir

    yield start
    for job in jobs:
        cluster.call("scancel", "--quiet", job)
        cluster.wait_for_end(job)


def losses(workdir):
    """The steps whose loss was written, in order."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line)["step"] for line in lines if "train/loss" in line and line.endswith("}")]


def checkpoints(workdir):
    return [int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()]


def test_a_job_of_two_tasks_is_stopped_requeued_and_finishes(cluster, submit):
    job, workdir = submit()
    cluster.until(lambda: len(losses(workdir)) >= 3, job)
    cluster.call("scancel", "--signal=TERM", "--batch", job)
    cluster.wait_for(job, "PENDING", "RUNNING", restarts=1)
    assert "stopped by SIGTERM" in cluster.log(job) and checkpoints(workdir)
    cluster.wait_for(job, "COMPLETED", restarts=1, seconds=300)
    starts = json.loads((workdir / "run.json").read_text())
    assert [start["processes"] for start in starts] == [2, 2] and starts[1]["from_step"] >= 3
    assert losses(workdir) == list(range(1, 181)), "each step once"
    print(cluster.log(job))


def test_the_time_limit_comes_with_a_warning_that_saves(cluster, submit):
    # SLURM counts limits in minutes and warns up to a minute earlier than it is told to.
    job, workdir = submit("--time=2", "--signal=B:TERM@20", epochs=5000.0)
    cluster.wait_for(job, "PENDING", "RUNNING", restarts=1, seconds=180)
    assert "status 75: back to the queue" in cluster.log(job) and checkpoints(workdir)


def test_a_job_that_is_cancelled_saves_and_stays_away(cluster, submit):
    job, workdir = submit()
    cluster.until(lambda: len(losses(workdir)) >= 3, job)
    cluster.call("scancel", job)
    cluster.wait_for(job, "CANCELLED")
    cluster.until(lambda: "not going back to the queue" in cluster.log(job), job)
    assert max(checkpoints(workdir)) >= 3


def test_a_task_that_is_killed_brings_the_job_back_to_the_queue(cluster, submit):
    job, workdir = submit()
    cluster.until(lambda: len(losses(workdir)) >= 3, job)
    os.kill(cluster.task(job, 1), signal.SIGKILL)
    cluster.wait_for(job, "PENDING", "RUNNING", restarts=1)
    assert "process 1" in cluster.log(job) and "back to the queue" in cluster.log(job)
