"""Quantum noise, as the dose was lower."""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from osteojax.config import Share
from osteojax.train.augmentations.registry import augmentation


@dataclasses.dataclass(frozen=True)
class Poisson:
    """Upper end of a uniform draw of the standard deviation at white, of the range."""

    poisson: Annotated[float, Share] = 0.0


@augmentation("poisson", settings=Poisson, kind="intensity", strongest={"poisson": 0.1})
def poisson(
    image: Float[Array, "height width channels"], key: Key[Array, ""], settings: Poisson
) -> Float[Array, "height width channels"]:
    """Noise of variance sigma^2 x at the value x, clipped to [0, 1]: of 1 / sigma^2 photons at white.

    A normal draw with the mean and variance of the Poisson one, from which it differs where fewer than about ten
    photons arrive (below 10 sigma^2); the exact draw takes many times as long. Of a picture that is linear in
    photons; a logarithm, or bone shown white, changes where noise is strongest.
    """
    sigma_key, noise_key = jax.random.split(key)
    sigma = settings.poisson * jax.random.uniform(sigma_key)
    noise = jax.random.normal(noise_key, image.shape)
    return jnp.clip(image + sigma * jnp.sqrt(image) * noise, 0.0, 1.0)
