"""Early stopping, and which checkpoint is the best one."""

import dataclasses
from typing import Any

from osteojax.errors import UserError
from osteojax.run.checkpoint import is_better


@dataclasses.dataclass
class BestSoFar:
    """The best validation so far; travels in every checkpoint.

    Attributes:
        metric: name of the validation metric.
        mode: "max" or "min".
        patience: evaluations without improvement after which a run stops; 0 never stops it.
        step: of the last evaluation, None before the first.
        value: of the last evaluation.
        best_step: of the best evaluation.
        best_value: of the best evaluation.
        stale: evaluations since the best.
    """

    metric: str
    mode: str
    patience: int
    step: int | None = None
    value: float | None = None
    best_step: int | None = None
    best_value: float | None = None
    stale: int = 0

    def __post_init__(self) -> None:
        if self.mode not in ("max", "min"):
            raise UserError(f"best.mode={self.mode!r} is not one of max, min")

    def update(self, step: int, metrics: dict[str, float]) -> None:
        """Takes in an evaluation.

        Raises:
            UserError: the metric is not among those evaluated.
        """
        if self.metric not in metrics:
            raise UserError(f"best.metric={self.metric!r} is not one of {', '.join(metrics)}")
        self.step, self.value = step, metrics[self.metric]
        if is_better(self.mode, self.value, self.best_value):
            self.best_step, self.best_value, self.stale = step, self.value, 0
        else:
            self.stale += 1

    @property
    def exhausted(self) -> bool:
        """Whether patience is at its end."""
        return 0 < self.patience <= self.stale

    def as_record(self) -> dict[str, Any]:
        """For the checkpoint's JSON part; `BestSoFar(**record)` gives it back."""
        return dataclasses.asdict(self)
