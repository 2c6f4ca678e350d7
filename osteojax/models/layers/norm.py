"""Batch normalisation as in PyTorch: masked, over the global batch or over virtual device groups."""

import math

import jax
import jax.numpy as jnp
from flax import nnx


class BatchNorm(nnx.Module):
    """Normalises the last axis of (B, ..., C); statistics over all other axes.

    Ioffe and Szegedy 2015, algorithm 1 and 2, with the conventions of `torch.nn.BatchNorm2d`: `momentum` is
    the weight of the *new* statistic, the biased variance normalises, the unbiased one enters `var`.
    Statistics are float32 whatever the dtype of the input. Under `jax.jit` with a batch sharded over a mesh
    the statistics are those of the global batch; `parts=n` gives each of n equal slices of the batch its
    own (what unsynchronised data parallelism on n devices computes) and averages them into the running
    statistics.

    Attributes:
        scale, bias: (C,) float32 parameters.
        mean, var: (C,) float32 running statistics.
        use_running_average: True normalises by the running statistics and leaves them alone. Switched for a
            part of a model with `part.set_attributes(BatchNorm, use_running_average=True)`, for all of it
            with `model.eval()` and `model.train()`.
    """

    def __init__(self, features: int, *, eps: float = 1e-5, momentum: float = 0.1, parts: int = 1) -> None:
        self.scale = nnx.Param(jnp.ones(features, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(features, jnp.float32))
        self.mean = nnx.BatchStat(jnp.zeros(features, jnp.float32))
        self.var = nnx.BatchStat(jnp.ones(features, jnp.float32))
        self.eps = eps
        self.momentum = momentum
        self.parts = parts
        self.use_running_average = False

    def affine(self) -> tuple[jax.Array, jax.Array]:
        """The inference-mode normalisation as one multiply-add: `x * factor + offset`, each (C,) float32."""
        return self._affine(self.mean[...], self.var[...])

    def _affine(self, mean: jax.Array, var: jax.Array) -> tuple[jax.Array, jax.Array]:
        factor = self.scale[...] * jax.lax.rsqrt(var + self.eps)
        return factor, self.bias[...] - mean * factor

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Normalises x (B, ..., C) and, in training mode, updates the running statistics.

        Args:
            x: (B, ..., C) of any float dtype; the result has the same.
            mask: (B,) of 0 and 1; rows with 0 (the padding of an uneven batch) do not enter the statistics. A
                group (or batch) with no row left normalises by the running statistics and does not change
                them.

        Raises:
            ValueError: the batch does not divide into `groups`.
        """
        return self.normalise(x, *self.fit(x, mask))

    def fit(self, x: jax.Array, mask: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """Factor and offset (parts, C) float32 of the normalisation of x; arguments and effect as of a call."""
        if self.use_running_average:
            factor, offset = self.affine()
            return factor[None], offset[None]
        batch = x.shape[0]
        if batch % self.parts:
            raise ValueError(f"a batch of {batch} does not divide into {self.parts} batch-norm parts")
        # One group is no reshape: that one would not keep the sharding of the batch.
        grouped = x[None] if self.parts == 1 else x.reshape(self.parts, -1, *x.shape[1:])
        axes = tuple(range(1, grouped.ndim - 1))
        # One pass over memory: moments about the running mean, which is near the batch's, so that the
        # subtraction below does not cancel (it would about zero, where |mean| >> std).
        pivot = jax.lax.stop_gradient(self.mean[...])
        centred = grouped.astype(jnp.float32) - pivot
        positions = math.prod(x.shape[1:-1])
        if mask is None:
            count = jnp.asarray([[batch // self.parts * positions]], jnp.float32)
        else:
            kept = mask.reshape(self.parts, -1, *(1,) * (x.ndim - 1)) != 0
            centred = jnp.where(kept, centred, 0)
            count = kept.sum(axes, dtype=jnp.float32) * positions
        shift = centred.sum(axes) / jnp.maximum(count, 1)
        var = jnp.maximum(jnp.square(centred).sum(axes) / jnp.maximum(count, 1) - jnp.square(shift), 0)
        return self.absorb(shift + pivot, var, count)

    @staticmethod
    def normalise(x: jax.Array, factor: jax.Array, offset: jax.Array) -> jax.Array:
        """x (B, ..., C) times factor plus offset, (parts, C) each, in the dtype of x."""
        if len(factor) == 1:
            return (x * factor[0] + offset[0]).astype(x.dtype)
        grouped = x.reshape(len(factor), -1, *x.shape[1:])
        axes = tuple(range(1, grouped.ndim - 1))
        y = grouped * jnp.expand_dims(factor, axes) + jnp.expand_dims(offset, axes)
        return y.astype(x.dtype).reshape(x.shape)

    def absorb(self, mean: jax.Array, var: jax.Array, count: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Normalisation by a batch's statistics as factor and offset, which also enter the running ones.

        Args:
            mean: (parts, C) float32.
            var: (parts, C) float32, the biased variance.
            count: (parts, 1) float32, how many values they are of.

        Returns:
            factor, offset: (parts, C) float32; in a part of no values those of the running statistics.
        """
        some = count > 0
        mean = jnp.where(some, mean, self.mean[...])
        unbiased = jnp.where(some, var * count / jnp.maximum(count - 1, 1), self.var[...])
        factor, offset = self._affine(mean, jnp.where(some, var, self.var[...]))
        blend = self.momentum
        self.mean[...] = jax.lax.stop_gradient((1 - blend) * self.mean[...] + blend * mean.mean(0))
        self.var[...] = jax.lax.stop_gradient((1 - blend) * self.var[...] + blend * unbiased.mean(0))
        return factor, offset
