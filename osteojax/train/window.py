"""The metrics of the steps since the last line of the log."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from osteojax.errors import UserError


class Diverged(UserError):
    """The loss, or a number of the state, is not finite any more."""


class Window:
    """Metrics step by step, left on the device until they are wanted.

    Args:
        known: of the steps that a checkpoint told of.
    """

    def __init__(self, known: list[dict[str, float]]) -> None:
        self._known = list(known)
        self._on_device: list[dict[str, Any]] = []
        self._waiting = 0

    def __len__(self) -> int:
        return len(self._known) + self._waiting

    def add(self, metrics: dict[str, Any], steps: int) -> None:
        """Metrics of a call: scalars, or (steps,) arrays."""
        self._on_device.append(metrics)
        self._waiting += steps

    def fetch(self) -> None:
        """Waits for the device and brings its metrics here; exact, so that a checkpoint can carry them as JSON."""
        for metrics in self._on_device:
            columns = {name: np.atleast_1d(np.asarray(value)).tolist() for name, value in metrics.items()}
            self._known += [
                dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
            ]
        self._on_device, self._waiting = [], 0

    def check_finite(self, step: int, workdir: Path) -> None:
        """Stops a run whose loss is not finite any more.

        Args:
            step: updates done; the window is fetched.
            workdir: for the message.

        Raises:
            Diverged: with the range of steps since the loss was last known to be finite.
        """
        bad = [i for i, metrics in enumerate(self._known) if not math.isfinite(metrics["loss"])]
        if bad:
            first = step - len(self._known) + 1
            raise Diverged(
                f"loss is {self._known[bad[0]]['loss']} at step {first + bad[0]} (checked: {first} to {step} of "
                f"{workdir}); nothing of these steps was saved; lower optimizer.learning_rate or set "
                "optimizer.clip_norm"
            )

    def as_record(self) -> list[dict[str, float]]:
        """What a checkpoint keeps of a fetched window: a copy, since it is written while training goes on."""
        return list(self._known)

    def average(self) -> dict[str, float]:
        """Mean of each metric over the steps of a fetched window; what the last step has not is left out."""
        return {
            name: float(np.mean([metrics[name] for metrics in self._known if name in metrics]))
            for name in self._known[-1]
        }

    def clear(self) -> None:
        """The line is written."""
        self._known = []
