"""Integrated gradients (Sundararajan et al. 2017, arXiv:1703.01365)."""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from osteojax.config import Bound
from osteojax.explain.maps import class_logit
from osteojax.explain.registry import explainer
from osteojax.models.network import Cut, Flat


@dataclasses.dataclass(frozen=True)
class IntegratedGradients:
    """Attributes:
    steps: points of the midpoint rule on the way from black to the image. More come closer to completeness.
    """

    steps: Annotated[int, Bound(low=1)] = 32


@explainer("integrated_gradients", settings=IntegratedGradients)
def integrated_gradients(
    cut: Cut,
    params: Flat,
    stats: Flat,
    image: Float[Array, "batch height width channels"],
    label: Int[Array, " batch"],
    settings: IntegratedGradients,
) -> Float[Array, "batch height width"]:
    """The image times the mean gradient on the straight way to it from black (equation 3), summed over channels.

    In units of the logit, of either sign. The sum over all pixels is the logit of the image less that of a black one,
    up to the error of the midpoint rule (completeness, proposition 1). Black attributes nothing to black pixels.
    """

    def total(x: jax.Array) -> jax.Array:
        return class_logit(cut.logits(params, stats, x), label).sum()

    def add(gradients: jax.Array, share: jax.Array) -> tuple[jax.Array, None]:
        return gradients + jax.grad(total)(share * image), None

    shares = (jnp.arange(settings.steps, dtype=image.dtype) + 0.5) / settings.steps
    gradients, _ = jax.lax.scan(add, jnp.zeros_like(image), shares)
    return (image * gradients).sum(-1) / settings.steps
