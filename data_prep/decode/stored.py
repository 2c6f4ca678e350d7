"""From bits to stored values (PS3.5, 8.1.1): BitsStored bits below HighBit, and nothing of what lies around them."""

import numpy as np

from data_prep.bands import bands
from data_prep.decode.radiograph import DecodeError

# Of all pixels; below it, a few defective ones.
_WRAPPED_SHARE = 1e-3


def stored_values(
    raw: np.ndarray, *, bits: int, high_bit: int, signed: bool, lossy: bool, overlay_bits: int = 0
) -> np.ndarray:
    """The values that BitsStored bits hold.

    Bits above them may hold an overlay or nothing and are ignored. A lossy codec has no such bits: what is beyond the
    range there is overshoot, and clipped.

    Args:
        raw: unsigned or signed integers (rows, columns), as the file or the decoder has them.
        bits: BitsStored.
        high_bit: HighBit, the most significant of them.
        signed: PixelRepresentation.
        lossy: whether a lossy codec made them.
        overlay_bits: mask of the bits of `raw` that the file declares to be overlays.

    Returns:
        (rows, columns) integers: signed or not as the values are, of 16 bits where these suffice, else of 32.

    Raises:
        DecodeError: the values need more bits than the file declares: the picture would be wrapped.
    """
    low, high = stored_range(bits, signed)
    stored = np.empty(raw.shape, f"{'i' if signed else 'u'}{2 if bits <= 16 else 4}")
    unextended = lossy and signed and raw.min() >= 0 and raw.max() > high
    torn = 0
    for rows in bands(*raw.shape):
        values = raw[rows].astype(np.int64)
        if lossy:
            values = _sign_extended(values & (2**bits - 1), bits) if unextended else values
            stored[rows] = np.clip(values, low, high)
            continue
        shifted = values >> (high_bit - bits + 1)
        kept = shifted & (2**bits - 1)
        kept = _sign_extended(kept, bits) if signed else kept
        whole = shifted & ~(overlay_bits >> (high_bit - bits + 1))
        torn += 0 if np.array_equal(kept, whole) else _torn(kept, whole, bits)
        stored[rows] = kept
    if torn > _WRAPPED_SHARE * raw.size:
        raise DecodeError(
            f"its pixel values go beyond the {bits} bits that its header declares; export it again"
        )
    return stored


def stored_range(bits: int, signed: bool) -> tuple[int, int]:
    """Smallest and largest value of so many bits."""
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def _sign_extended(values: np.ndarray, bits: int) -> np.ndarray:
    return np.where(values >= 2 ** (bits - 1), values - 2**bits, values)


def _torn(kept: np.ndarray, whole: np.ndarray, bits: int) -> int:
    """How many neighbours cutting bits off tore apart that are close in the uncut values.

    At the edge of an overlay it is the other way round: there the uncut values jump.
    """
    torn = np.abs(np.diff(kept, axis=1)) > 2 ** (bits - 1)
    close = np.abs(np.diff(whole, axis=1)) < 2 ** (bits - 2)
    return int(np.count_nonzero(torn & close))
