"""A transformer behind a convolutional network: its last map as tokens, and a weighted mean of them for the classes.

After the hybrids of Dosovitskiy et al. 2021 (arXiv:2010.11929, section 3.1), which begin with a ResNet's stages. The
weights of the mean are attention by one learned query (Ilse et al. 2018, arXiv:1802.04712, equation 8, without its
hidden layer).
"""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from osteojax.config import Bound
from osteojax.errors import UserError
from osteojax.models.layers.convolution import LayerOptions, Linear
from osteojax.models.layers.transformer import EncoderBlock, layer_norm


@dataclasses.dataclass(frozen=True)
class AttentionSection:
    """`model.attention.*` of an experiment's config.

    Attributes:
        blocks: of the transformer's encoder; 0 leaves the architecture's own head.
        width: channels of its tokens, a multiple of 4 and of `heads`.
        heads: of its attention.
    """

    blocks: Annotated[int, Bound(low=0)] = 0
    width: Annotated[int, Bound(low=4)] = 256
    heads: Annotated[int, Bound(low=1)] = 8


def sine_positions(rows: int, columns: int, width: int) -> np.ndarray:
    """(rows * columns, width) float32 in [-1, 1]: sine and cosine of row and column at width / 4 wavelengths.

    The wavelengths run from 2 pi to 10,000 times that (Vaswani et al. 2017, section 3.5, for each axis a half).
    """
    frequency = 10_000.0 ** -(np.arange(width // 4) / (width // 4))
    down, right = (axis.reshape(-1, 1) * frequency for axis in np.mgrid[:rows, :columns])
    return np.concatenate([np.sin(down), np.cos(down), np.sin(right), np.cos(right)], -1).astype(np.float32)


class AttentionHead(nnx.Module):
    """A dense layer to tokens, positions, encoder blocks, layer norm, the weighted mean, one linear layer."""

    def __init__(
        self,
        in_features: int,
        classes: int,
        section: AttentionSection,
        *,
        options: LayerOptions,
        rngs: nnx.Rngs,
    ) -> None:
        width = section.width
        if width % 4 or width % section.heads:
            raise UserError(
                f"model.attention.width={width} is no multiple of 4 and of model.attention.heads={section.heads}"
            )
        self.narrow = Linear(in_features, width, dtype=options.dtype, rngs=rngs)
        self.blocks = nnx.List(
            [EncoderBlock(width, section.heads, options=options, rngs=rngs) for _ in range(section.blocks)]
        )
        self.final = layer_norm(width, 1e-6, options=options, rngs=rngs)
        self.score = Linear(width, 1, rngs=rngs)
        self.fc = Linear(width, classes, rngs=rngs)

    def __call__(self, h: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """(B, h, w, C) -> logits (B, classes) float32."""
        tokens, share, _ = self._weighed(h)
        return self.fc(jnp.einsum("bn,bnc->bc", share, tokens))

    def look(self, h: jax.Array) -> jax.Array:
        """Where the head looks: (B, h, w, C) -> (B, h, w) float32, at least 0, which sum to 1 for each image.

        The shares of the mean, carried back through the blocks by attention rollout (Abnar and Zuidema 2020,
        arXiv:2005.00928, section 3): each block mixes tokens by the mean of its heads, and its shortcut keeps half.
        """
        _, share, mixtures = self._weighed(h)
        for mixture in reversed(mixtures):
            share = (share + jnp.einsum("bn,bnm->bm", share, mixture)) / 2
        return share.reshape(h.shape[:3])

    def _weighed(self, h: jax.Array) -> tuple[jax.Array, jax.Array, list[jax.Array]]:
        """Tokens (B, N, C) and their shares (B, N), float32; who looked where in each block (B, N, N)."""
        batch, rows, columns, _ = h.shape
        x = self.narrow(h).reshape(batch, rows * columns, -1)
        x = x + sine_positions(rows, columns, x.shape[-1]).astype(x.dtype)
        mixtures = []
        for block in self.blocks:
            x, attention = block.attend(x)
            mixtures.append(attention.mean(1))
        tokens = self.final(x).astype(jnp.float32)
        return tokens, jax.nn.softmax(self.score(tokens)[..., 0], axis=-1), mixtures
