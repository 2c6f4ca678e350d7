"""Wall time of the training loop."""

import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


class Clock:
    """Wall time of the training loop: how long the steps took, and how long they waited for data."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Starts a new window."""
        self._began = time.perf_counter()
        self._waited = self._synchronised = self._away = 0.0

    def waiting(self) -> "_Stopwatch":
        """Context: time spent waiting for a batch."""
        return _Stopwatch(self, "_waited")

    def synchronising(self) -> "_Stopwatch":
        """Context: time spent waiting for the device, and with it for the slowest process."""
        return _Stopwatch(self, "_synchronised")

    def paused(self) -> "_Stopwatch":
        """Context: time that belongs to no training step."""
        return _Stopwatch(self, "_away")

    def lap(self, steps: int, batch_size: int) -> dict[str, float]:
        """Timing of the window, and a new one."""
        elapsed = max(time.perf_counter() - self._began - self._away, 1e-9)
        memory = jax.local_devices()[0].memory_stats() or {}
        facts = {
            "examples_per_second": steps * batch_size / elapsed,
            "step_seconds": elapsed / steps,
            "data_wait_seconds": self._waited / steps,
            "device_wait_seconds": self._synchronised / steps,
        }
        facts |= by_process(facts)
        if "peak_bytes_in_use" in memory:
            facts["peak_device_bytes"] = memory["peak_bytes_in_use"]
        self.restart()
        return facts


def by_process(facts: Mapping[str, float]) -> dict[str, float]:
    """The waiting of each process, where there are several, and the number of the slowest.

    All steps take as long as the slowest process needs; it is the one that waits least for the others.
    """
    if jax.process_count() == 1:
        return {}
    names = ("data_wait_seconds", "device_wait_seconds")
    waits = np.asarray(multihost_utils.process_allgather(np.asarray([facts[name] for name in names])))
    found = {
        f"{name}/process{process}": float(wait[column])
        for process, wait in enumerate(waits)
        for column, name in enumerate(names)
    }
    device_waits = waits[:, 1]
    return found | {
        "slowest_process": int(device_waits.argmin()),
        "device_wait_spread_seconds": float(np.ptp(device_waits)),
    }


class _Stopwatch:
    def __init__(self, clock: Clock, field: str) -> None:
        self._clock, self._field = clock, field

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: Any) -> None:
        spent = time.perf_counter() - self._began
        setattr(self._clock, self._field, getattr(self._clock, self._field) + spent)
