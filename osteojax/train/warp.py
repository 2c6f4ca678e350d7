"""Coordinates that geometric augmentations move, and the one interpolation behind all of them.

Points are (2, H, W) float32: for each pixel of the result the place (y, x) that it is taken from, in pixels from the
centre of the image. To rotate, scale, shear and bend an image one after the other is to move its points one after the
other; blurred by interpolation it is once.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Points = Float[Array, "2 height width"]


def still(height: int, width: int) -> Points:
    """The points of the image as it is."""
    y, x = jnp.arange(height) - (height - 1) / 2, jnp.arange(width) - (width - 1) / 2
    return jnp.stack(jnp.meshgrid(y, x, indexing="ij"))


def linear(points: Points, matrix: Float[Array, "2 2"]) -> Points:
    """Each point times a matrix that acts on (y, x)."""
    return jnp.einsum("ij,jhw->ihw", matrix, points, precision=jax.lax.Precision.HIGHEST)


def sample(
    image: Float[Array, "height width channels"], points: Points
) -> Float[Array, "height width channels"]:
    """The image at the points, bilinear; what lies outside is the nearest pixel of the edge."""
    height, width, _ = image.shape
    places = points + jnp.array([(height - 1) / 2, (width - 1) / 2])[:, None, None]
    at = lambda plane: jax.scipy.ndimage.map_coordinates(plane, list(places), order=1, mode="nearest")  # noqa: E731
    return jax.vmap(at, in_axes=-1, out_axes=-1)(image)
