"""Every parameter of both stages of BM3D, under the paper's names.

Source: Dabov, Foi, Katkovnik, Egiazarian, "Image denoising by sparse 3-D transform-domain collaborative
filtering", IEEE TIP 16(8), 2007: the text's symbols and Table I.

The paper states tau_match for 8-bit images. Here it is in units of sigma squared, so that scaling an image
together with its sigma scales the result and nothing else. The paper's lambda_2D (a coarse threshold before
block distances, equation 4) has no field: the normal profile's value is 0, which turns equation 4 into
equation 6, and the profiles below need no other value at any sigma.

Where later work of the same group improved on the paper at little cost, the profiles follow it (Makinen,
Azzari, Foi, IEEE TIP 29, 2020): thresholds and weights use the exact noise variance of every coefficient of a
group, whose overlapping blocks share noise, and with it a larger lambda_3D and `mu2`.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import numpy as np

from osteojax.errors import UserError

MOST_REGIONS = 5
"""Their thresholds are searched for exhaustively."""


@dataclasses.dataclass(frozen=True)
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
        grid: distances are those of pixels rounded to multiples of sigma / grid; 0 does not round. On whole
            multiples float32 sums of squares are exact up to 2**24, in whatever order, so that every backend finds
            the same blocks near, on 8-bit images too, where many are equally so.
        tau_match: largest distance of a match, as mean squared difference over the block's pixels in units of
            sigma**2, `tau_match` (the paper's number for 8-bit images divided by sigma**2).
        distance_floor: smaller distances (same units) count as this one. Below it, noise decides which block
            looks nearest, and a group chosen by its noise keeps that noise: among equals the earlier of
            `offsets` wins, and these are spread. 0 is the paper's rule.
        kaiser_beta: `beta` of the Kaiser window over a block when it is put back.
    """

    transform_2d: Literal["bior1.5", "dct"]
    transform_1d: Literal["haar"]
    block_size: int
    group_size: int
    step: int
    search_window: int
    grid: int
    tau_match: float
    distance_floor: float
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
        if not 0 <= self.distance_floor < self.tau_match:
            raise UserError(
                f"BM3D profile: distance_floor must be at least 0 and below tau_match ({self.tau_match}), not "
                f"{self.distance_floor}: else a block does not even match itself"
            )

    @property
    def distance_unit(self) -> int:
        """What a distance of 1, in the fields' units, is as a sum of squares over a block's pixels on the grid."""
        return (self.block_size * (self.grid or 1)) ** 2

    def offsets(self) -> np.ndarray:
        """Candidate offsets (dy, dx); of equal distances, the earlier offset wins.

        First the reference block itself, then the offsets on a lattice of 6 pixels, then those on one of 3,
        then the rest, each nearest first: blocks of a tie are spread, so that they share little noise.

        Returns:
            int64 array (search_window**2, 2).
        """
        radius = self.search_window // 2
        axis = np.arange(-radius, radius + 1)
        dy, dx = (a.ravel() for a in np.meshgrid(axis, axis, indexing="ij"))
        coarse = sum(((dy % n == 0) & (dx % n == 0)).astype(int) for n in (3, 6))
        coarse[(dy == 0) & (dx == 0)] = 3
        order = np.lexsort((dx, dy, dy * dy + dx * dx, -coarse))
        return np.stack([dy[order], dx[order]], axis=1)


@dataclasses.dataclass(frozen=True)
class Profile:
    """Both stages of BM3D.

    Attributes:
        name: what the profile is called in configs and manifests.
        hard: the first stage, collaborative hard thresholding.
        lambda_3d: hard threshold on 3-D coefficients in units of their noise's standard deviation,
            `lambda_3D`. No simple number: coefficients of 8-bit images are, and none should lie exactly on the
            threshold, where rounding would decide and backends differ.
        wiener: the second stage, collaborative Wiener filtering guided by the first stage's estimate.
        mu2: what the noise variance is multiplied by in the Wiener gain (`mu` squared in Makinen, Azzari, Foi
            2020); 1 is the paper's equation 9.
        regions: by grey level, beyond which no block is matched (`data_prep.denoise.bm3d.regions`); 1 is all of the
            image.
    """

    name: str
    hard: Stage
    lambda_3d: float
    wiener: Stage
    mu2: float
    regions: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.regions <= MOST_REGIONS:
            raise UserError(f"BM3D profile: regions must be 1 to {MOST_REGIONS}, not {self.regions}")


# The paper's normal profile: its blocks, groups, full search and transforms (Table I). Its grid of reference blocks
# is finer, 2 pixels where the paper has 3, because that is also quicker here: a block is then made of whole cells.
NP = Profile(
    name="np",
    hard=Stage(
        transform_2d="bior1.5",
        transform_1d="haar",
        block_size=8,
        group_size=16,
        step=2,
        search_window=39,
        grid=64,
        tau_match=20.0,
        distance_floor=1.4,
        kaiser_beta=2.0,
    ),
    lambda_3d=2.9013,
    wiener=Stage(
        transform_2d="dct",
        transform_1d="haar",
        block_size=8,
        group_size=32,
        step=2,
        search_window=39,
        grid=0,
        tau_match=2.0,
        distance_floor=0.06,
        kaiser_beta=2.0,
    ),
    mu2=0.5,
)

# For preparing data: a quarter of the reference blocks.
FAST = dataclasses.replace(
    NP, name="fast", hard=dataclasses.replace(NP.hard, step=4), wiener=dataclasses.replace(NP.wiener, step=4)
)

# Four in ten of the candidates in both stages, and the first stage's group size in the second too. A smaller window has
# fewer than 16 offsets on the lattice of 6 pixels, and loses five times as much.
FASTER = dataclasses.replace(
    FAST,
    name="faster",
    hard=dataclasses.replace(FAST.hard, search_window=25),
    wiener=dataclasses.replace(FAST.wiener, search_window=25, group_size=16),
)

# Chen and Wu 2010: see `data_prep.denoise.bm3d.regions`.
BOUNDED = dataclasses.replace(NP, name="bounded", regions=2)

PROFILES: Mapping[str, Profile] = MappingProxyType({p.name: p for p in (NP, FAST, FASTER, BOUNDED)})
