"""What preparation does of the region of interest, and with which weights, as the dataset's metadata have it."""

import dataclasses
import functools
import hashlib
import re
from pathlib import Path
from typing import Literal

from osteojax.errors import UserError
from osteojax.files import cache_dir, write_atomically

FOUND = "found"
How = Literal["none", "crop", "mask", "channel"]
SIZE = 192
"""Side in pixels of what the segmenter takes: the whole radiograph, its aspect kept, on its darkest value."""
SHIPPED = Path(__file__).with_name("unet.safetensors")


@dataclasses.dataclass(frozen=True)
class RegionSpec:
    """The region of interest.

    Attributes:
        how: "none" looks for nothing; "crop" cuts out the joint, or both, with a margin; "mask" darkens all that is
            neither femur, tibia nor joint space; "channel" leaves the image and puts a map of them beside it.
        weights: SHA-256 of the segmenter's weights; empty with "none".
    """

    how: How = "none"
    weights: str = ""


def region_spec(how: How, weights: str) -> RegionSpec:
    """The spec of a config's values; weights of others are kept where every later reader of the spec finds them.

    Args:
        how: of `RegionSpec`.
        weights: a file; "" for those of this package.

    Raises:
        UserError: the file holds no segmenter.
    """
    if how == "none":
        return RegionSpec()
    if not weights:
        return RegionSpec(how, shipped_sha256())
    from data_prep.region.weights import read_weights  # it brings JAX along, which nothing else here needs

    content = Path(weights)
    _, sha256 = read_weights(content)
    if not kept(sha256).exists():
        write_atomically(kept(sha256), content.read_bytes())
    return RegionSpec(how, sha256)


def kept(sha256: str) -> Path:
    """Where weights of that SHA-256 lie, if they do."""
    if sha256 == shipped_sha256():
        return SHIPPED
    if not re.fullmatch("[0-9a-f]{64}", sha256):  # it comes out of metadata, which nobody vouches for
        raise UserError(
            f"the preprocessing spec names weights of a segmenter by {sha256!r:.80}, which is no SHA-256"
        )
    return cache_dir() / "segmenters" / f"{sha256}.safetensors"


@functools.cache
def shipped_sha256() -> str:
    """SHA-256 of the weights that lie in this package."""
    return hashlib.sha256(SHIPPED.read_bytes()).hexdigest()
