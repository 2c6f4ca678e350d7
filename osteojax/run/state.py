"""The state of a training run."""

import dataclasses
from typing import Any

import jax

from osteojax.models.network import Flat


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class TrainState:
    """All that a step reads and writes.

    Attributes:
        step: () int32, number of updates done.
        params: path -> float32.
        batch_stats: path -> float32 running means and variances.
        opt_state: of the optax transformation; holds nothing for frozen groups.
        ema: exponential moving average of `params`, or None.
        ema_batch_stats: the same average of `batch_stats`, or None.
    """

    step: jax.Array
    params: Flat
    batch_stats: Flat
    opt_state: Any
    ema: Flat | None
    ema_batch_stats: Flat | None

    def for_inference(self) -> tuple[Flat, Flat]:
        """Parameters and running statistics to evaluate with: the averages where they are kept."""
        if self.ema is None or self.ema_batch_stats is None:
            return self.params, self.batch_stats
        return self.ema, self.ema_batch_stats
