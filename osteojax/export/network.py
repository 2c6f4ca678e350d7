"""The network of a run as others need it: one function of the image alone, or plain arrays."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np

from osteojax import config as configs
from osteojax.models.build import ModelSection, build_shapes
from osteojax.models.network import Network
from osteojax.run.open import Run


def closed_forward(
    run: Run, dtype: Literal["float32", "bfloat16"] | None = None
) -> Callable[[jax.Array], jax.Array]:
    """`f(image) -> logits` in evaluation mode, the parameters within: (B, H, W, C) float32 in [0, 1] to (B, classes).

    Convolutions are the compiler's own: what "auto" takes on CPU depends on the size of the batch, which an exported
    program leaves open.

    Args:
        run: the opened checkpoint.
        dtype: of the computation; by default the run's own.
    """
    model = configs.read(ModelSection, run.config.model, "model")
    model = dataclasses.replace(model, conv_impl="native", dtype=dtype or model.dtype)
    network = Network(build_shapes(model, run.record["origin"]["architecture"], len(run.class_names)))
    apply, trees = network.eval_function(), arrays(run)
    return lambda image: apply(trees["params"], trees["batch_stats"], image)


def arrays(run: Run) -> dict[str, dict[str, np.ndarray]]:
    """`params` and `batch_stats` in the host's memory, each path -> array."""
    return {
        "params": jax.tree.map(np.asarray, run.params),
        "batch_stats": jax.tree.map(np.asarray, run.batch_stats),
    }


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    """Dictionaries within dictionaries, of paths that slashes join."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *folders, leaf = path.split("/")
        at = tree
        for folder in folders:
            at = at.setdefault(folder, {})
        at[leaf] = value
    return tree
