"""A large image cut into strips of rows that are filtered one after the other, to the bit as the whole would be.

A pixel depends on no row farther away than both stages reach: so much is filtered above and below the rows that are
kept. Strips begin at a multiple of a block's side, so that the sums over the cells of a block are in the same order.
"""

import dataclasses
import math
from collections.abc import Iterator

from data_prep.denoise.bm3d.profiles import Profile, Stage

# Of a strip with what is filtered around it; the stages keep four arrays of its size.
_PIXELS = 16 * 2**20


@dataclasses.dataclass(frozen=True)
class Strip:
    """Rows `top` to `bottom` of an image, of which those from `first` to `end` are kept."""

    top: int
    bottom: int
    first: int
    end: int


def strips_of(height: int, width: int, profile: Profile, pixels: int = _PIXELS) -> Iterator[Strip]:
    """The strips that an image is filtered in, from top to bottom; each row is kept in one of them.

    Args:
        height: of the image.
        width: of the image.
        profile: of the filter.
        pixels: that a strip may have, unless its surroundings alone have half as many.
    """
    if height * width <= pixels:
        yield Strip(0, height, 0, height)
        return
    block = max(profile.hard.block_size, profile.wiener.block_size)
    grain = math.lcm(block, profile.hard.step, profile.wiener.step)
    around = math.ceil((_reach(profile.hard) + _reach(profile.wiener)) / grain) * grain
    kept = max((pixels // width - block) // grain * grain - 2 * around, 2 * around)
    for first in range(0, height, kept):
        end = min(first + kept, height)
        # A strip that ends within the image is covered by blocks as it is, without padding.
        yield Strip(max(first - around, 0), min(first + kept + around + block, height), first, end)


def _reach(stage: Stage) -> int:
    """Rows from a pixel to the farthest that its estimate by one stage depends on.

    A block over the pixel lies within the search window of its reference block, and that one's group was chosen among
    blocks within the same window.
    """
    return 2 * (stage.search_window // 2) + stage.block_size
