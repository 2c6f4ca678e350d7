"""Early stopping, and which checkpoint is the best one."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from osteojax.run.checkpoint import is_better, ranking_value


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

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes in an evaluation."""
        self.step, self.value = step, ranking_value(metrics, self.metric)
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

    def ranked_by(
        self, metric: str, mode: str, patience: int, validated: Mapping[int, Mapping[str, float]]
    ) -> "BestSoFar":
        """The same run under another ranking; patience begins anew where anything changed.

        Args:
            metric: of the new ranking.
            mode: likewise.
            patience: likewise.
            validated: step -> validation metrics, of the checkpoints that there still are.
        """
        if (metric, mode, patience) == (self.metric, self.mode, self.patience):
            return self
        if (metric, mode) == (self.metric, self.mode):
            return dataclasses.replace(self, patience=patience, stale=0)
        again = BestSoFar(metric, mode, patience)
        for step, metrics in validated.items():
            again.update(step, metrics)
        return dataclasses.replace(again, stale=0)
