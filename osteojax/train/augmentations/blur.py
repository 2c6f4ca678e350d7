"""Blur, as the focal spot was larger or the patient moved."""

import dataclasses
import math
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from osteojax.config import Bound
from osteojax.train.augmentations.registry import augmentation


@dataclasses.dataclass(frozen=True)
class Blur:
    """Upper end of a uniform draw of the standard deviation, pixels."""

    blur: Annotated[float, Bound(low=0, high=10)] = 0.0


@augmentation("blur", settings=Blur, kind="intensity", strongest={"blur": 2.0})
def blur(
    image: Float[Array, "height width channels"], key: Key[Array, ""], settings: Blur
) -> Float[Array, "height width channels"]:
    """A Gaussian along both axes, cut off at three of its largest standard deviations; edges repeated."""
    sigma = settings.blur * jax.random.uniform(key)
    reach = math.ceil(3 * settings.blur)
    at = jnp.arange(-reach, reach + 1)
    weight = jnp.exp(-0.5 * jnp.square(at / jnp.maximum(sigma, 1e-3)))
    weight /= weight.sum()
    return jnp.clip(_along(_along(image, weight, 0), weight, 1), 0.0, 1.0)


def _along(image: jax.Array, weight: jax.Array, axis: int) -> jax.Array:
    reach = len(weight) // 2
    padded = jnp.pad(image, [(reach, reach) if a == axis else (0, 0) for a in range(3)], mode="edge")
    moved = [jax.lax.slice_in_dim(padded, k, k + image.shape[axis], axis=axis) for k in range(len(weight))]
    return jnp.tensordot(weight, jnp.stack(moved), 1, precision=jax.lax.Precision.HIGHEST)
