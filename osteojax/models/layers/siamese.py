"""SimSiam's projection and prediction in place of a classifier's head (Chen and He 2021, section 3)."""

import jax
import jax.numpy as jnp
from flax import nnx

from osteojax.models.layers.convolution import LayerOptions, Linear
from osteojax.models.layers.pool import global_avg_pool


class DenseBN(nnx.Module):
    """A dense layer and batch norm."""

    def __init__(self, inputs: int, outputs: int, *, options: LayerOptions, rngs: nnx.Rngs) -> None:
        self.dense = Linear(inputs, outputs, rngs=rngs)
        self.norm = options.batch_norm(outputs)

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """(B, in) -> (B, out) float32; `mask` (B,) as in `BatchNorm`."""
        return self.norm(self.dense(x), mask)


class SiameseHead(nnx.Module):
    """Of pooled features (B, F) the projection z (B, F), and of that the prediction p (B, F).

    Projection: three dense layers with batch norm, ReLU between them. Prediction: one to F / 4 with batch norm and
    ReLU, and one back without either. With a ResNet-50's F of 2,048 these are the paper's sizes.
    """

    def __init__(self, features: int, *, options: LayerOptions, rngs: nnx.Rngs) -> None:
        self.projection = nnx.List(
            [DenseBN(features, features, options=options, rngs=rngs) for _ in range(3)]
        )
        self.narrow = DenseBN(features, features // 4, options=options, rngs=rngs)
        self.widen = Linear(features // 4, features, rngs=rngs)

    def __call__(self, h: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """(B, H, W, F) -> p and z side by side, (B, 2 F) float32."""
        z = global_avg_pool(h)
        for layer in self.projection[:-1]:
            z = jax.nn.relu(layer(z, mask))
        z = self.projection[-1](z, mask)
        p = self.widen(jax.nn.relu(self.narrow(z, mask)))
        return jnp.concatenate([p, z], axis=-1)
