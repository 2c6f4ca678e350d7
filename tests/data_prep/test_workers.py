"""Worker processes: same results as none, and a task that kills its process costs only itself."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from data_prep.workers import WorkerDied, run_tasks


def square(number):
    return number * number


def square_or_die(number):
    if number in (3, 7):
        os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does when memory runs out
    return number * number


@pytest.mark.parametrize("workers", [0, 2])
def test_every_task_once(workers):
    assert sorted(run_tasks(square, range(10), workers)) == [(i, i * i) for i in range(10)]


def test_a_task_that_kills_its_process_is_the_only_one_lost():
    results = dict(run_tasks(square_or_die, range(10), 2))
    assert len(results) == 10
    dead = {i for i, result in results.items() if isinstance(result, WorkerDied)}
    assert dead == {3, 7}
    assert all(results[i] == i * i for i in range(10) if i not in dead)


def test_workers_end_with_their_parent_in_the_middle_of_a_task():
    code = "import time; from data_prep.workers import run_tasks; list(run_tasks(time.sleep, [100] * 4, 2))"
    parent = subprocess.Popen([sys.executable, "-c", code])
    try:
        # Beside the workers there may be multiprocessing's resource tracker.
        deadline = time.monotonic() + 60
        workers: list[psutil.Process] = []
        while len(workers) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
            children = psutil.Process(parent.pid).children()
            workers = [c for c in children if "spawn_main" in " ".join(c.cmdline()) and c.num_threads() > 1]
    finally:
        parent.kill()
        parent.wait()
    assert len(workers) == 2
    _, alive = psutil.wait_procs(workers, timeout=20)
    for worker in alive:
        worker.kill()
    assert not alive
