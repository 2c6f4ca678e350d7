"""Wall time of the training loop."""

import time
from typing import Any

import jax


class Clock:
    """Wall time of the training loop: how long the steps took, and how long they waited for data."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Starts a new window."""
        self._began, self._waited, self._away = time.perf_counter(), 0.0, 0.0

    def waiting(self) -> "_Stopwatch":
        """Context: time spent waiting for a batch."""
        return _Stopwatch(self, "_waited")

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
        }
        if "peak_bytes_in_use" in memory:
            facts["peak_device_bytes"] = memory["peak_bytes_in_use"]
        self.restart()
        return facts


class _Stopwatch:
    def __init__(self, clock: Clock, field: str) -> None:
        self._clock, self._field = clock, field

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: Any) -> None:
        spent = time.perf_counter() - self._began
        setattr(self._clock, self._field, getattr(self._clock, self._field) + spent)
