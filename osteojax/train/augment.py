"""Augmentation on the device, inside the jitted step, so that it is a pure function of (seed, step, row).

Radiographs allow little: mirroring, small rotations and shifts, gain. Each is a file in `augmentations/` and off by
default.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from osteojax.config import no_such_key, read
from osteojax.errors import UserError
from osteojax.train.augmentations.registry import AUGMENTATIONS, Augmentation

# Each that is on, with its settings, in the order of their application.
Chain = tuple[tuple[Augmentation, Any], ...]


def chain(section: Mapping[str, Any]) -> Chain:
    """The augmentations that the keys of `augment` switch on, geometry first.

    Raises:
        UserError: a key that no augmentation has, or a value that is not allowed.
    """
    values = dict(section)
    found = []
    known: dict[str, str] = {}
    for name, member in AUGMENTATIONS.members.items():
        fields = [field.name for field in dataclasses.fields(member.settings)]
        known |= dict.fromkeys(fields, name)
        settings: Any = read(
            member.settings, {key: values[key] for key in fields if key in values}, "augment"
        )
        if not member.is_off(settings):
            found.append((member, settings))
    for key in values:
        if key not in known:
            raise UserError(no_such_key(f"augment.{key}", known))
    return tuple(
        sorted(found, key=lambda entry: entry[0].kind)
    )  # "geometry" < "intensity"; sorting is stable


def apply(
    key: Key[Array, ""], image: Float[Array, "batch height width channels"], augmentations: Chain
) -> Float[Array, "batch height width channels"]:
    """Augments a batch.

    Args:
        key: of this step.
        image: (B, H, W, C) float32 in [0, 1].
        augmentations: as `chain` gives them.

    Returns:
        (B, H, W, C) float32 in [0, 1].
    """
    # One key per row, by its place in the global batch: the number of padding rows must not matter.
    keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(image.shape[0]))
    return apply_each(keys, image, augmentations)


def apply_each(
    keys: Key[Array, " batch"], image: Float[Array, "batch height width channels"], augmentations: Chain
) -> Float[Array, "batch height width channels"]:
    """As `apply`, with a key of its own for each image."""
    if not augmentations:
        return image

    def one(row_key: jax.Array, x: jax.Array) -> jax.Array:
        for member, settings in augmentations:
            keys = (jax.random.fold_in(row_key, draw) for draw in member.draws)
            x = member.function(x, *keys, settings=settings)
        return x

    return jax.vmap(one)(keys, image)
