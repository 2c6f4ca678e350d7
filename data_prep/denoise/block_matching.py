"""BM3D (`data_prep.denoise.bm3d`) as a denoiser that preparation can choose."""

import dataclasses
from typing import Literal

import numpy as np

from data_prep.denoise.bm3d import bm3d
from data_prep.denoise.registry import denoiser
from osteojax.errors import UserError


@dataclasses.dataclass(frozen=True)
class BM3DSettings:
    """What can be set of BM3D.

    Attributes:
        profile: the paper's normal profile ("np"), one that is several times faster ("fast"), or one that is half as
            fast again and loses a little ("faster"); or the first within regions of like grey ("bounded").
        backend: what computes it: "numba" on the CPU, "jax" on any of its devices, or "package", the closed reference.
    """

    profile: Literal["fast", "faster", "np", "bounded"] = "fast"
    backend: Literal["numba", "jax", "package"] = "numba"

    def __post_init__(self) -> None:
        """Raises UserError where the backend does not have the profile."""
        if self.profile == "bounded" and self.backend != "numba":
            raise UserError(
                f"denoise.profile=bounded needs denoise.backend=numba, not {self.backend!r}; change one of them"
            )


@denoiser(
    "bm3d",
    settings=BM3DSettings,
    in_parent=lambda settings: settings.backend == "jax",
    coloured=lambda settings: settings.backend == "numba",
)
def block_matching(
    pixels: np.ndarray, sigma: float, settings: BM3DSettings, psd: np.ndarray | None = None
) -> np.ndarray:
    """Dabov et al. 2007, and for coloured noise Makinen et al. 2020."""
    return bm3d(pixels, sigma, psd=psd, profile=settings.profile, backend=settings.backend)
