"""Mirroring: a left knee is a right knee mirrored."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from osteojax.train.augmentations.registry import augmentation


@dataclasses.dataclass(frozen=True)
class Flip:
    """Whether half of the images are mirrored."""

    flip: bool = False


@augmentation("flip", settings=Flip, kind="geometry", draws=(0,), strongest={"flip": True})
def flip(
    image: Float[Array, "height width channels"], key: Key[Array, ""], settings: Flip
) -> Float[Array, "height width channels"]:
    """Left and right exchanged, with probability 1/2."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)
