"""The last layer behind an image's features and a patient's columns, side by side.

After the hybrid of Nagra et al. 2020, a network's features and clinical covariates before one classifier, but trained
together. The columns come as `osteojax.data.columns.Columns.encode` has them.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from osteojax.models.layers.convolution import Linear

EMBEDDED = 32
"""Features of the columns, beside hundreds or thousands of the image."""


class Joined(nnx.Module):
    """Two dense layers with ReLU for the columns, and the last layer for both.

    Of the numbers that say that nothing is known of a column the weights begin at 0: where training never saw that,
    an unknown value counts as the mean, and not as what was drawn for it.

    Args:
        last: the last layer, for the image's features with `EMBEDDED` more.
        inputs: F, numbers of the encoded columns.
        columns: how many there are; so many of the numbers, the last ones, say that nothing is known.
    """

    def __init__(self, last: nnx.Module, inputs: int, columns: int, *, rngs: nnx.Rngs) -> None:
        self.first = Linear(inputs, EMBEDDED, rngs=rngs)
        self.first.kernel[...] = self.first.kernel[...].at[inputs - columns :].set(0.0)
        self.second = Linear(EMBEDDED, EMBEDDED, rngs=rngs)
        self.last = last

    def __call__(self, x: jax.Array) -> jax.Array:
        """The image's features as they are: what a network's own head ends with, before `join`."""
        return x

    def join(self, x: jax.Array, clinical: jax.Array) -> jax.Array:
        """Features (B, C) of the image and encoded columns (B, F) float32 -> what the last layer makes of both."""
        columns = jax.nn.relu(self.second(jax.nn.relu(self.first(clinical))))
        return self.last(jnp.concatenate([x, columns], axis=-1))
