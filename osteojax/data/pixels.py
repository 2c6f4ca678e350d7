"""Pixels in half of their bytes: values that preparation rounded fit uint16 without loss."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_BITS = 15
"""What preparation rounds to multiples of 2**-value_bits, 12 by default, is a multiple of 2**-15 as well."""


def pack(image: np.ndarray) -> np.ndarray | None:
    """The same values as uint16 multiples of 2**-15; None where float32 in [0, 1] has one that is none."""
    scaled = np.multiply(image, 2**_BITS, dtype=np.float32)
    with np.errstate(invalid="ignore"):  # what does not fit is told by the comparison
        packed = scaled.astype(np.uint16)
    return packed if (packed == scaled).all() else None


def unpack(image: Any) -> jax.Array:
    """float32 in [0, 1] of what `pack` made, to the bit; anything that is not uint16 as it is."""
    if image.dtype != jnp.uint16:
        return image
    return image.astype(jnp.float32) * np.float32(2.0**-_BITS)
