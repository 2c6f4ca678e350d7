"""What all architectures share: stem, four stages, head, each callable alone."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from osteojax.models.layers.convolution import Linear
from osteojax.models.layers.joined import Joined
from osteojax.models.layers.pool import global_avg_pool

STAGES = ("stem", "stage1", "stage2", "stage3", "stage4", "head")
# What some heads begin with: it holds no parameters.
POOL = "pool"
MIN_SIZE = 32
"""Pixels: every architecture here halves the image five times."""


class Stage(nnx.Module):
    """Blocks in a row, each called as `block(h, mask)`; perhaps what leads into them, and what closes them."""

    def __init__(
        self,
        blocks: Sequence[nnx.Module],
        *,
        transition: nnx.Module | None = None,
        final: nnx.Module | None = None,
    ) -> None:
        self.transition: Any = transition
        self.blocks = nnx.List(list(blocks))
        self.final: Any = final

    def __call__(self, h: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """(B, H, W, C) -> (B, H', W', C'); `mask` (B,) as in `BatchNorm`."""
        if self.transition is not None:
            h = self.transition(h, mask)
        for block in self.blocks:
            h = block(h, mask)
        return h if self.final is None else self.final(h, mask)


class Head(nnx.Module):
    """What pools a part's output, and ends with one linear layer, `fc`, both in float32."""

    fc: Any  # an experiment may put another last layer in its place

    def __call__(self, h: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """What the last part gives, or (B, C) where that is pooled already, -> logits (B, num_classes) float32."""
        return self.fc(self.pre_logits(h))

    def pre_logits(self, h: jax.Array) -> jax.Array:
        """The same, or (B, C) of `pool`, -> (B, F): what the last layer takes."""
        return h if h.ndim == 2 else self.pool(h)

    def pool(self, h: jax.Array) -> jax.Array:
        """(B, H, W, C) -> (B, C) float32: the part of the head that nothing can be learned of."""
        return global_avg_pool(h)


class PoolHead(Head):
    """Global average pooling and one linear layer, nothing else."""

    def __init__(self, in_features: int, num_classes: int, *, rngs: nnx.Rngs) -> None:
        self.fc = Linear(in_features, num_classes, rngs=rngs)


class Backbone(nnx.Module):
    """A classifier in six parts: `stem`, `stage1` to `stage4`, `head`.

    Stages are cut by resolution: `stem` leaves 1/4 of the input's side or, in architectures whose first
    stage pools, 1/2; `stage1` to `stage4` leave 1/4, 1/8, 1/16 and 1/32. A parameter's path starts with its
    part's name, so `stage3` freezes about the same share of any architecture. A plain vision transformer keeps one
    resolution: its stages are a quarter of its blocks each.

    Attributes:
        arch: the registry's name, so that weights of another architecture with equal shapes (v1 against v1.5
            strides) are refused.
        patch: pixels a side of the patches whose tokens (B, 1 + h w, C), a class token first, run between the parts
            of a plain vision transformer; None where maps (B, h, w, C) do.
    """

    head: Any

    def __init__(
        self,
        arch: str,
        stem: nnx.Module,
        stages: Sequence[nnx.Module],
        head: nnx.Module,
        *,
        patch: int | None = None,
    ) -> None:
        self.arch = arch
        self.patch = patch
        self.stem = stem
        self.stage1, self.stage2, self.stage3, self.stage4 = stages
        self.head: Any = head  # its last layer is `fc`, which takes what `pre_logits` gives

    def __call__(
        self, x: jax.Array, mask: jax.Array | None = None, clinical: jax.Array | None = None
    ) -> jax.Array:
        """Logits (B, num_classes) float32 of images x; a T-score behind them, where the last layer gives one.

        Args:
            x: (B, H, W, in_channels) in [0, 1]; H and W at least 32. Normalisation by the mean and std that
                the weights expect happens inside.
            mask: (B,) of 0 and 1; rows with 0 do not enter batch-norm statistics.
            clinical: (B, F) float32, the encoded columns, where the last layer takes some.

        Raises:
            ValueError: wrong number of axes or channels, an image below 32 pixels, or columns that are missing.
        """
        return self.from_features(x, start="stem", mask=mask, clinical=clinical)

    def features(self, x: jax.Array, upto: str = "stage4", mask: jax.Array | None = None) -> jax.Array:
        """Activations (B, H', W', C) in the compute dtype after the part `upto`, from images x.

        With `POOL` for `upto`, where the head has such a part: (B, C) float32, which the head takes too.
        """
        if upto == POOL:
            return self.head.pool(self.features(x, STAGES[-2], mask))
        return self._run(x, STAGES[: _position(upto) + 1], mask)

    def pre_logits(self, h: jax.Array, start: str = "head") -> jax.Array:
        """(B, F) float32, what the last layer takes, from the input h of the part `start` as in `from_features`."""
        return self.head.pre_logits(self._run(h, STAGES[_position(start) : -1], None)).astype(jnp.float32)

    def from_features(
        self,
        h: jax.Array,
        start: str = "head",
        mask: jax.Array | None = None,
        clinical: jax.Array | None = None,
    ) -> jax.Array:
        """Logits from the input h of the part `start`: what `features` returns for the part before it."""
        h = self._run(h, STAGES[_position(start) :], mask)
        if not self.takes_columns:
            return h
        if clinical is None:
            raise ValueError("this network takes a patient's columns beside the image, and got none")
        return self.head.fc.join(h, clinical)

    @property
    def takes_columns(self) -> bool:
        """Whether the last layer joins a patient's columns with the image's features."""
        return isinstance(getattr(self.head, "fc", None), Joined)

    def _run(self, h: jax.Array, parts: tuple[str, ...], mask: jax.Array | None) -> jax.Array:
        if "stem" in parts and (h.ndim != 4 or min(h.shape[1:3]) < MIN_SIZE):
            raise ValueError(f"images are (B, H, W, C) with H and W at least {MIN_SIZE}, not {h.shape}")
        for part in parts:
            h = getattr(self, part)(h, mask)
        return h


def stages(model: Backbone) -> tuple[str, ...]:
    """The names of the model's top-level parts in the order of execution."""
    return tuple(part for part in STAGES if hasattr(model, part))


def _position(part: str) -> int:
    if part not in STAGES:
        raise ValueError(f"no part {part!r}; there are {', '.join(STAGES)}")
    return STAGES.index(part)
