"""Worker processes: same results as none, and a task that kills its process costs only itself."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from data_prep.workers import TookTooLong, WorkerDied, run_tasks


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


def square_or_hang(number):
    if number == 3:
        time.sleep(600)
    return number * number


def test_a_task_that_hangs_is_ended_and_is_the_only_one_lost():
    results = dict(run_tasks(square_or_hang, range(10), 2, seconds=2))
    assert isinstance(results.pop(3), TookTooLong)
    assert results == {i: i * i for i in range(10) if i != 3}


def die_once(marker):
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def test_a_worker_that_is_killed_from_outside_costs_nothing(tmp_path):
    assert dict(run_tasks(die_once, [tmp_path / "a", tmp_path / "b"], 2)) == {0: "done", 1: "done"}


def raise_time_out(_):
    raise TimeoutError("of the network")


def test_what_a_task_raises_is_raised_even_a_time_out():
    with pytest.raises(TimeoutError, match="of the network"):
        list(run_tasks(raise_time_out, [0], 1, seconds=100))


def test_who_stops_asking_leaves_no_process_behind():
    results = run_tasks(time.sleep, [0, 600, 600], 2)
    next(results)
    begun = time.monotonic()
    results.close()
    assert time.monotonic() - begun < 30
    assert not [c for c in psutil.Process().children() if "spawn_main" in " ".join(c.cmdline())]
