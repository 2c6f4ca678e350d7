"""Which parameters are kernels: what inputs are multiplied by."""

from typing import Any

import jax


def kernels(params: Any) -> Any:
    """For each parameter of a flat tree whether it is a kernel.

    Not so are biases, norms, and what a transformer knows of places: positions, class tokens and tables of distances,
    which have two dimensions and more like kernels. Published recipes spare them weight decay, and optimizers that
    take a parameter for a matrix have no business with them.
    """
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key.endswith("kernel"), params)
