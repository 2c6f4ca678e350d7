"""Worker processes: same results as none, and a task that kills its process costs only itself."""

import os
import signal

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
