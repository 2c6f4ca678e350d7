"""Runs one function over many files in worker processes, and survives those that die and those that hang."""

import logging
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from threadpoolctl import threadpool_limits

log = logging.getLogger(__name__)


class WorkerDied:
    """Stands in for the result of a task that took its process down (segmentation fault, out of memory)."""


class TookTooLong:
    """Stands in for the result of a task that outlasted its limit and was ended."""


def available_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


class Guard:
    """A process of its own for one task after another: started anew when a task has ended it or was ended with it."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None
        self._pid = 0

    def run(
        self, function: Callable[[Any], Any], task: Any, seconds: float | None
    ) -> Any | WorkerDied | TookTooLong:
        """What `function(task)` gives or raises, or what became of it; the start of the process is not counted.

        Args:
            function: picklable.
            task: likewise.
            seconds: after which the process is killed; None for never.
        """
        try:
            if self._pool is None:
                # Spawned, not forked: forking a process in which JAX, numba or BLAS threads run can deadlock.
                spawn = multiprocessing.get_context("spawn")
                self._pool = ProcessPoolExecutor(1, spawn, initializer=start_worker)
                self._pid = self._pool.submit(_ready, function).result()
            future = self._pool.submit(function, task)
            try:
                return future.result(seconds)
            except TimeoutError:
                if future.done():  # the function's own
                    raise
                self.close()
                return TookTooLong()
        except BrokenProcessPool:
            self.close()
            return WorkerDied()

    def close(self) -> None:
        """Ends the process, whatever it does; a later run starts another."""
        pool, self._pool = self._pool, None
        if pool is not None:
            for process in multiprocessing.active_children():
                if process.pid == self._pid:
                    process.kill()
            pool.shutdown(wait=True, cancel_futures=True)


def _ready(function: Callable[[Any], Any]) -> int:
    """Number of this process, which has imported by now what the function needs."""
    del function
    return os.getpid()


def run_tasks(
    function: Callable[[Any], Any], tasks: Sequence[Any], workers: int, *, seconds: float | None = None
) -> Iterator[tuple[int, Any | WorkerDied | TookTooLong]]:
    """Yields (index of the task, its result) as results come in.

    Args:
        function: picklable, pure; must not raise for bad input.
        tasks: picklable arguments, one call each.
        workers: number of processes; 0 runs everything in this one, where nothing can be ended.
        seconds: limit of a task; None for none.

    A task whose process died is run once more, alone, when the others are done: it may have been another's memory
    that was missing. `WorkerDied` is what dies twice.
    """
    if workers == 0:
        for index, task in enumerate(tasks):
            yield index, function(task)
        return
    guards = [Guard() for _ in range(workers)]
    idle: queue.SimpleQueue[Guard] = queue.SimpleQueue()
    for guard in guards:
        idle.put(guard)

    def run(index: int) -> Any:
        guard = idle.get()
        try:
            return guard.run(function, tasks[index], seconds)
        finally:
            idle.put(guard)

    # A thread a process: all that it does is wait.
    threads = ThreadPoolExecutor(workers)
    died = []
    try:
        futures = {threads.submit(run, index): index for index in range(len(tasks))}
        for future in as_completed(futures):
            index, result = futures[future], future.result()
            if isinstance(result, WorkerDied):
                died.append(index)
            else:
                yield index, result
        for index in sorted(died):
            result = guards[0].run(function, tasks[index], seconds)
            if isinstance(result, WorkerDied):
                log.warning("a worker process died on task %d", index)
            yield index, result
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        for guard in guards:
            guard.close()
        threads.shutdown(wait=True)


def start_worker() -> None:
    """Settles a new worker process: one thread, no Ctrl-C, and an end when its parent ends."""
    # A worker a core: libraries that start threads of their own would only get in each other's way.
    threadpool_limits(1)
    # An accelerator is held by one process, which is not this one; JAX looks when it is imported.
    os.environ["JAX_PLATFORMS"] = "cpu"
    # Ctrl-C is the parent's to handle; a killed parent must not leave workers waiting for ever.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is a worker
    parent.join()
    os._exit(1)
