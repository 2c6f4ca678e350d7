"""Runs one function over many files in worker processes, and survives workers that die."""

import logging
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from threadpoolctl import threadpool_limits

log = logging.getLogger(__name__)


class WorkerDied:
    """Stands in for the result of a task that took its process down (segmentation fault, out of memory)."""


def available_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def run_tasks(
    function: Callable[[Any], Any], tasks: Sequence[Any], workers: int
) -> Iterator[tuple[int, Any | WorkerDied]]:
    """Yields (index of the task, its result) as results come in.

    Args:
        function: picklable, pure; must not raise for bad input.
        tasks: picklable arguments, one call each.
        workers: number of processes; 0 runs everything in this one.

    A dead worker breaks its whole pool and does not say on which task: the tasks that were in flight are run
    again one by one, and the one that kills its process a second time yields `WorkerDied`.
    """
    if workers == 0:
        for index, task in enumerate(tasks):
            yield index, function(task)
        return
    waiting = deque(range(len(tasks)))
    while waiting:
        suspects: list[int] = []
        yield from _run_pool(function, tasks, waiting, workers, suspects)
        for index in suspects:
            alone: list[int] = []
            yield from _run_pool(function, tasks, deque([index]), 1, alone)
            if alone:
                log.warning("a worker process died on task %d", index)
                yield index, WorkerDied()


def _run_pool(
    function: Callable[[Any], Any],
    tasks: Sequence[Any],
    waiting: deque[int],
    workers: int,
    suspects: list[int],
) -> Iterator[tuple[int, Any]]:
    """Runs until nothing waits or the pool breaks; then `suspects` holds the tasks that were in flight."""
    # Spawned, not forked: forking a process in which JAX, numba or BLAS threads run can deadlock.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=start_worker)
    in_flight: dict[Future, int] = {}
    try:
        while waiting or in_flight:
            while waiting and len(in_flight) < 2 * workers:
                in_flight[pool.submit(function, tasks[waiting[0]])] = waiting[0]
                waiting.popleft()
            done, _ = wait(in_flight, return_when=FIRST_COMPLETED)
            for future in done:
                result = future.result()
                yield in_flight.pop(future), result
    except BrokenProcessPool:
        finished = [f for f in in_flight if f.done() and f.exception() is None]
        for future in finished:
            yield in_flight.pop(future), future.result()
        suspects.extend(sorted(in_flight.values()))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def start_worker() -> None:
    """Settles a new worker process: one thread, no Ctrl-C, and an end when its parent ends."""
    # A worker a core: libraries that start threads of their own would only get in each other's way.
    threadpool_limits(1)
    # Ctrl-C is the parent's to handle; a killed parent must not leave workers waiting for ever.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is a worker
    parent.join()
    os._exit(1)
