"""Occlusion (Zeiler and Fergus 2014, arXiv:1311.2901, section 4.2)."""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from osteojax.config import Bound
from osteojax.explain.maps import class_logit
from osteojax.explain.registry import explainer
from osteojax.models.network import Cut, Flat


@dataclasses.dataclass(frozen=True)
class Occlusion:
    """Attributes:
    patch: side of the grey square, in pixels of the network's input.
    stride: from one square to the next; more than `patch` would leave pixels out.
    """

    patch: Annotated[int, Bound(low=1)] = 32
    stride: Annotated[int, Bound(low=1)] = 16


@explainer("occlusion", settings=Occlusion)
def occlusion(
    cut: Cut,
    params: Flat,
    stats: Flat,
    image: Float[Array, "batch height width channels"],
    label: Int[Array, " batch"],
    settings: Occlusion,
) -> Float[Array, "batch height width"]:
    """By how much the logit falls when a square of each channel's mean hides a pixel, averaged over all such.

    In units of the logit, of either sign. The last square of a row or column ends at the border.

    Raises:
        ValueError: the square is larger than the image, or the stride than the square.
    """
    rows, columns = (square_starts(side, settings) for side in image.shape[1:3])
    corners = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)
    grey = image.mean((1, 2), keepdims=True)
    whole = class_logit(cut.logits(params, stats, image), label)
    row, column = (np.arange(side) for side in image.shape[1:3])

    def add(
        carry: tuple[jax.Array, jax.Array], corner: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        total, times = carry
        hidden_rows, hidden_columns = (
            (at >= start) & (at < start + settings.patch)
            for at, start in zip((row, column), corner, strict=True)
        )
        hidden = hidden_rows[:, None] & hidden_columns
        occluded = jnp.where(hidden[..., None], grey, image)
        fall = whole - class_logit(cut.logits(params, stats, occluded), label)
        return (total + fall[:, None, None] * hidden, times + hidden), None

    nothing = jnp.zeros(image.shape[:3], jnp.float32), jnp.zeros(image.shape[1:3], jnp.float32)
    (total, times), _ = jax.lax.scan(add, nothing, jnp.asarray(corners))
    return total / times


def square_starts(side: int, settings: Occlusion) -> np.ndarray:
    """Where squares begin on an axis of `side` pixels, so that each pixel lies under one.

    Raises:
        ValueError: the square is larger than the image, or the stride than the square.
    """
    patch, stride = settings.patch, settings.stride
    if patch > side or stride > patch:
        raise ValueError(
            f"squares of {patch} pixels, {stride} apart, on {side}: the stride is at most the square's side, "
            "and that at most the image's"
        )
    return np.unique(np.append(np.arange(0, side - patch, stride), side - patch))
