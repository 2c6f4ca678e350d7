"""The views of an image whose probabilities are averaged: small fixed movements that change no diagnosis."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from osteojax.errors import UserError
from osteojax.train import warp

MIRROR = "mirror"
_ANGLE, _FACTOR, _SHARE = np.deg2rad(5.0), 1.05, 0.03


def _rotations() -> list[np.ndarray]:
    return [np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0]]) for a in (-_ANGLE, _ANGLE)]


def _scales() -> list[np.ndarray]:
    return [np.array([[f, 0, 0], [0, f, 0]]) for f in (1 / _FACTOR, _FACTOR)]


def _shifts() -> list[np.ndarray]:
    steps = ((-_SHARE, 0), (_SHARE, 0), (0, -_SHARE), (0, _SHARE))
    return [np.array([[1, 0, y], [0, 1, x]]) for y, x in steps]


# Name -> maps from a place (y, x, 1) of the view, in sides from the centre, to the place of the image.
_MAPS = {
    "rotate": _rotations,
    "scale": _scales,
    "shift": _shifts,
}
VIEWS = (MIRROR, *_MAPS)


def check_views(names: Sequence[str]) -> None:
    """Raises UserError for a name that is no view."""
    for name in names:
        if name not in VIEWS:
            raise UserError(f"no view {name!r} to average over; there are {', '.join(VIEWS)}")


def views(images: Float[np.ndarray, "n h w c"], names: Sequence[str]) -> list[Float[np.ndarray, "n h w c"]]:
    """The images, and then as views: mirrored; rotated by 5 degrees; 5 % smaller and larger; moved by 3 % of the sides.

    Rotations, scales and shifts go both ways, are bilinear, and repeat the edge; the mirror image is exact.
    """
    found = [images]
    for name in dict.fromkeys(names):
        if name == MIRROR:
            found.append(images[:, :, ::-1])
            continue
        found += [np.asarray(_moved(images, matrix)) for matrix in _MAPS[name]()]
    return found


@jax.jit
def _moved(images: jax.Array, matrix: jax.Array) -> jax.Array:
    sides = jnp.array(images.shape[1:3], jnp.float32)
    still = warp.still(*images.shape[1:3])
    points = warp.linear(still, matrix[:, :2]) + (matrix[:, 2] * sides)[:, None, None]
    return jax.vmap(warp.sample, in_axes=(0, None))(images, points)
