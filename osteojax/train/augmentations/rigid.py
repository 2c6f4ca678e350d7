"""Rotation and shift, as the patient was positioned otherwise; one interpolation for both."""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from osteojax.config import Bound, Share
from osteojax.train.augmentations.registry import augmentation


@dataclasses.dataclass(frozen=True)
class Rigid:
    """Half-widths of uniform draws: degrees, and fractions of the sides."""

    rotate: Annotated[float, Bound(low=0, high=180)] = 0.0
    shift: Annotated[float, Share] = 0.0


@augmentation("rigid", settings=Rigid, kind="geometry", draws=(1, 2))
def rigid(
    image: Float[Array, "height width channels"],
    rotate_key: Key[Array, ""],
    shift_key: Key[Array, ""],
    settings: Rigid,
) -> Float[Array, "height width channels"]:
    """Rotated about the centre and shifted."""
    angle = jnp.deg2rad(settings.rotate) * jax.random.uniform(rotate_key, minval=-1.0)
    offset = settings.shift * jax.random.uniform(shift_key, (2,), minval=-1.0)
    return move(image, angle, offset)


def move(
    image: Float[Array, "height width channels"], angle: Float[Array, ""], offset: Float[Array, "2"]
) -> Float[Array, "height width channels"]:
    """Rotation by `angle` radians about the centre and a shift by `offset` of the sides, bilinear, edges repeated."""
    height, width, _ = image.shape
    centre = jnp.array([(height - 1) / 2, (width - 1) / 2])
    y, x = jnp.meshgrid(jnp.arange(height) - centre[0], jnp.arange(width) - centre[1], indexing="ij")
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    source = (
        jnp.stack([cos * y - sin * x, sin * y + cos * x])
        + (centre + offset * jnp.array([height, width]))[:, None, None]
    )
    sample = lambda plane: jax.scipy.ndimage.map_coordinates(plane, list(source), order=1, mode="nearest")  # noqa: E731
    return jax.vmap(sample, in_axes=-1, out_axes=-1)(image)
