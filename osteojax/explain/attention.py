"""Where a head with attention looks: no explanation of a class, but what the classes are told from."""

import jax
import numpy as np
from jaxtyping import Array, Float

from osteojax.models.network import Cut, Flat


def attention_map(
    cut: Cut, params: Flat, stats: Flat, image: Float[Array | np.ndarray, "batch height width channels"]
) -> Float[Array, "batch height width"]:
    """The shares of the head's attention, enlarged to the image by bilinear interpolation; at least 0.

    Args:
        cut: of a network whose `Cut.attention` is there.
        params: path -> array.
        stats: path -> array.
        image: float32 in [0, 1].
    """
    assert cut.attention is not None, "only for networks with model.attention"
    coarse = jax.jit(cut.attention)(params, stats, image)
    return jax.image.resize(coarse, image.shape[:3], "bilinear")
