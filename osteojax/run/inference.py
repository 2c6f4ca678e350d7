"""Logits for every example of a split, each counted once, on any number of devices."""

from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from osteojax.data.batches import eval_iterator, plan_for, to_devices
from osteojax.data.columns import CLINICAL
from osteojax.data.dataset import Examples
from osteojax.devices.mesh import batch_sharding, replicated


def split_logits(
    forward: Callable[..., Array], source: Examples, mesh: Mesh, batch_size: int
) -> Float[np.ndarray, "n classes"]:
    """Logits (N, classes) float32 in the order of the split, or what else a network makes of each example.

    Args:
        forward: image (rows, H, W, C) over the mesh and, where the source has some, encoded columns (rows, F) -> logits
            (rows, classes), replicated.
        source: the N examples.
        mesh: whose devices share a batch.
        batch_size: of the global batch; any value gives the same answer.
    """
    sharding = batch_sharding(mesh)
    plan = plan_for(sharding, len(source), batch_size)
    # Which rows lie where is the mesh's affair: every row carries the number of its example.
    everywhere = jax.jit(lambda index: index, out_shardings=replicated(mesh))
    logits: np.ndarray | None = None
    counted = np.zeros(plan.examples, np.int64)
    for batch in eval_iterator(source, plan):
        wanted = ("image", "index", *(name for name in batch if name == CLINICAL))
        placed = to_devices({name: batch[name] for name in wanted}, sharding)
        index = np.asarray(everywhere(placed["index"]))
        found = np.asarray(forward(*(placed[name] for name in wanted if name != "index")))
        if logits is None:
            logits = np.empty((plan.examples, found.shape[-1]), found.dtype)
        real = index >= 0
        logits[index[real]] = found[real]
        np.add.at(counted, index[real], 1)
    if logits is None or not (counted == 1).all():
        raise AssertionError(f"of {plan.examples} examples {(counted != 1).sum()} were not counted once")
    return logits
