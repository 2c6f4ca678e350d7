"""Logits for every example of a split, each counted once, on any number of devices."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from osteojax.data.batches import eval_iterator, plan_for, to_devices


def split_logits(
    step: Callable[[jax.Array], jax.Array], source: Any, sharding: NamedSharding, batch_size: int
) -> np.ndarray:
    """Logits (N, classes) float32 in the order of the split.

    Args:
        step: image (rows, H, W, C) laid out by `sharding` -> logits (rows, classes), replicated.
        source: random access to the N examples.
        sharding: of the batches.
        batch_size: of the global batch; any value gives the same answer.
    """
    plan = plan_for(sharding, len(source), batch_size)
    found = []
    for index, batch in enumerate(eval_iterator(source, plan)):
        images = to_devices({"image": batch["image"]}, sharding)["image"]
        real = min(batch_size, plan.examples - index * batch_size)
        found.append(np.asarray(step(images))[:real])
    return np.concatenate(found)
