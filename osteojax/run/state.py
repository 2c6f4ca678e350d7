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
    """

    step: jax.Array
    params: Flat
    batch_stats: Flat
    opt_state: Any
    ema: Flat | None

    def inference_params(self) -> Flat:
        """The parameters to evaluate with: the average where one is kept."""
        return self.params if self.ema is None else self.ema
