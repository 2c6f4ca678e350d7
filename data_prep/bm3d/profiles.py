"""Every parameter of both stages of BM3D, under the paper's names.

Source: Dabov, Foi, Katkovnik, Egiazarian, "Image denoising by sparse 3-D transform-domain collaborative
filtering", IEEE TIP 16(8), 2007: the text's symbols and Table I.

The paper states tau_match for 8-bit images. Here it is in units of sigma squared, so that scaling an image
together with its sigma scales the result and nothing else. The paper's lambda_2D (a coarse threshold before
block distances, equation 4) has no field: the normal profile's value is 0, which turns equation 4 into
equation 6, and the profiles below need no other value at any sigma.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np

from data_prep.errors import UserError


@dataclass(frozen=True)
class Stage:
    """The parameters of one stage (`ht` and `wie` in the paper's superscripts).

    Attributes:
        transform_2d: the 2-D transform of a block, `T_2D`: "bior1.5" or "dct".
        transform_1d: the transform along a group, `T_1D`: "haar".
        block_size: side of a block in pixels, `N1`. Wavelets need a power of two.
        group_size: the most blocks in a group, `N2`, a power of two. A group keeps the largest power of two
            of its matches.
        step: pixels between reference blocks, `N_step`, in both directions. The last block of a row or column
            is a reference block too, so that every pixel is covered.
        search_window: odd side of the square of candidate blocks around a reference block, `N_S`.
        dense_radius: candidates with |dy|, |dx| up to this are all looked at; `search_window // 2` is the
            paper's full search.
        stride: beyond `dense_radius`, only offsets divisible by this in both directions are looked at.
        tau_match: largest distance of a match, as mean squared difference over the block's pixels in units of
            sigma**2, `tau_match` (the paper's number for 8-bit images divided by sigma**2).
        kaiser_beta: `beta` of the Kaiser window over a block when it is put back.
    """

    transform_2d: Literal["bior1.5", "dct"]
    transform_1d: Literal["haar"]
    block_size: int
    group_size: int
    step: int
    search_window: int
    dense_radius: int
    stride: int
    tau_match: float
    kaiser_beta: float

    def __post_init__(self) -> None:
        if self.group_size & (self.group_size - 1) or self.group_size < 1:
            raise UserError(f"BM3D profile: group_size must be a power of two, not {self.group_size}")
        if self.search_window % 2 == 0 or self.search_window < 1:
            raise UserError(f"BM3D profile: search_window must be odd, not {self.search_window}")
        if self.step < 1 or self.step > self.block_size:
            raise UserError(
                f"BM3D profile: step must be 1 to block_size ({self.block_size}), not {self.step}: "
                "a larger one leaves pixels uncovered"
            )
        if self.stride < 1 or self.dense_radius < 0:
            raise UserError("BM3D profile: stride must be at least 1 and dense_radius at least 0")

    def offsets(self) -> np.ndarray:
        """Candidate offsets (dy, dx), nearest first, the reference block itself first of all.

        Returns:
            int64 array (n, 2). The order settles ties between equal distances: the earlier offset wins.
        """
        radius = self.search_window // 2
        axis = np.arange(-radius, radius + 1)
        dy, dx = (a.ravel() for a in np.meshgrid(axis, axis, indexing="ij"))
        dense = np.maximum(np.abs(dy), np.abs(dx)) <= self.dense_radius
        sparse = (dy % self.stride == 0) & (dx % self.stride == 0)
        dy, dx = dy[dense | sparse], dx[dense | sparse]
        order = np.lexsort((dx, dy, dy * dy + dx * dx))
        return np.stack([dy[order], dx[order]], axis=1)


@dataclass(frozen=True)
class Profile:
    """Both stages of BM3D.

    Attributes:
        name: what the profile is called in configs and manifests.
        hard: the first stage, collaborative hard thresholding.
        lambda_3d: hard threshold on 3-D coefficients in units of sigma, `lambda_3D`.
        wiener: the second stage, collaborative Wiener filtering guided by the first stage's estimate.
    """

    name: str
    hard: Stage
    lambda_3d: float
    wiener: Stage


# The paper's normal profile (Table I, sigma up to 40); tau_match is its 2500 and 400 at sigma 25.
NP = Profile(
    name="np",
    hard=Stage(
        transform_2d="bior1.5",
        transform_1d="haar",
        block_size=8,
        group_size=16,
        step=3,
        search_window=39,
        dense_radius=19,
        stride=1,
        tau_match=2500 / 25**2,
        kaiser_beta=2.0,
    ),
    lambda_3d=2.7,
    wiener=Stage(
        transform_2d="dct",
        transform_1d="haar",
        block_size=8,
        group_size=32,
        step=3,
        search_window=39,
        dense_radius=19,
        stride=1,
        tau_match=400 / 25**2,
        kaiser_beta=2.0,
    ),
)

# For preparing data: fewer reference blocks and a search that is dense near the block and sparse far from it.
FAST = Profile(
    name="fast",
    hard=Stage(
        transform_2d="bior1.5",
        transform_1d="haar",
        block_size=8,
        group_size=16,
        step=4,
        search_window=39,
        dense_radius=5,
        stride=3,
        tau_match=2500 / 25**2,
        kaiser_beta=2.0,
    ),
    lambda_3d=2.7,
    wiener=Stage(
        transform_2d="dct",
        transform_1d="haar",
        block_size=8,
        group_size=32,
        step=4,
        search_window=39,
        dense_radius=5,
        stride=3,
        tau_match=400 / 25**2,
        kaiser_beta=2.0,
    ),
)

PROFILES: Mapping[str, Profile] = MappingProxyType({p.name: p for p in (NP, FAST)})
