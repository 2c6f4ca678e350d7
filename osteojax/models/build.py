"""From a config to a model with random weights, or with shapes in place of weights."""

import jax.numpy as jnp
import ml_collections
from flax import nnx

from osteojax import models
from osteojax.errors import UserError


def build(config: ml_collections.ConfigDict, architecture: str, classes: int, devices: int = 1) -> nnx.Module:
    """The model of a config with random weights; `config.seed` determines them.

    Batch norm takes its statistics over the global batch, or, with `model.batch_norm='per_device'`, over the part
    of each of the `devices`.

    Raises:
        UserError: an unknown architecture or choice.
    """
    groups = {"global": 1, "per_device": devices}
    if config.model.batch_norm not in groups:
        raise UserError(f"model.batch_norm={config.model.batch_norm!r} is not one of {', '.join(groups)}")
    return models.create(
        architecture,
        num_classes=classes,
        in_channels=1,
        dtype=jnp.dtype(config.model.dtype),
        rngs=nnx.Rngs(config.seed),
        bn_groups=groups[config.model.batch_norm],
        conv_impl=config.model.conv_impl,
    )


def build_shapes(
    config: ml_collections.ConfigDict, architecture: str, classes: int, devices: int = 1
) -> nnx.Module:
    """As `build`, with shapes in place of arrays: quick, where the values are about to be restored."""
    return nnx.eval_shape(lambda: build(config, architecture, classes, devices))
