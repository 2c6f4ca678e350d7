"""What a denoiser is, and the registry that a preparation's config chooses from."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from osteojax.config import read
from osteojax.registry import Registry


class Denoise(Protocol):
    """`f(pixels, sigma, settings) -> denoised`; of one that knows coloured noise, `f(..., psd=spectrum)` too."""

    def __call__(self, pixels: np.ndarray, sigma: float, settings: Any, /) -> np.ndarray:
        """Removes noise of standard deviation `sigma` from float32 (height, width) pixels of any range."""
        ...


@dataclasses.dataclass(frozen=True)
class NoSettings:
    """Of a denoiser that has none."""


@dataclasses.dataclass(frozen=True)
class Denoiser:
    """One way to remove noise.

    Attributes:
        name: as in `denoise.name`.
        run: what it does.
        settings: frozen dataclass of what can be set, each field with a default; see `osteojax.config.read`.
        in_parent: whether it must run in the main process, given its settings: an accelerator is held by one.
        coloured: whether it can be told the spectrum of the noise, given its settings: `run` then takes `psd`.
    """

    name: str
    run: Denoise
    settings: type = NoSettings
    in_parent: Callable[[Any], bool] = lambda settings: False
    coloured: Callable[[Any], bool] = lambda settings: False


DENOISERS: Registry[Denoiser] = Registry("denoiser")


def denoiser(
    name: str,
    *,
    settings: type = NoSettings,
    in_parent: Callable[[Any], bool] = lambda settings: False,
    coloured: Callable[[Any], bool] = lambda settings: False,
) -> Callable[[Denoise], Denoise]:
    """Decorator that registers a function as a denoiser; the arguments are the fields of `Denoiser`."""

    def register(run: Denoise) -> Denoise:
        DENOISERS.register(name)(Denoiser(name, run, settings, in_parent, coloured))
        return run

    return register


@dataclasses.dataclass(frozen=True)
class DenoiseSpec:
    """A denoiser and its settings, as the preparation spec stores them.

    Attributes:
        name: of the denoiser.
        settings: every field of its settings, as JSON has them.
    """

    name: str = "none"
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, name: str, settings: Mapping[str, Any]) -> "DenoiseSpec":
        """The spec with all its settings, those left out at their defaults.

        Raises:
            UserError: no such denoiser, or a setting that it does not have or that is not allowed.
        """
        found: Any = read(DENOISERS.get(name).settings, settings, "denoise")
        return cls(name, dataclasses.asdict(found))

    @property
    def in_parent(self) -> bool:
        """Whether it must run in the main process."""
        member = DENOISERS.get(self.name)
        return member.in_parent(member.settings(**self.settings))

    @property
    def coloured(self) -> bool:
        """Whether it can be told the spectrum of the noise."""
        member = DENOISERS.get(self.name)
        return member.coloured(member.settings(**self.settings))

    def __call__(self, pixels: np.ndarray, sigma: float, psd: np.ndarray | None = None) -> np.ndarray:
        """Float32 (height, width) pixels without the noise of standard deviation `sigma`.

        Args:
            pixels: float32 (height, width).
            sigma: in their units.
            psd: the noise's spectrum, as `data_prep.denoise.bm3d.bm3d` takes it, where `coloured`; None is white.

        Raises:
            UserError: an image or a sigma that the denoiser cannot compute with.
            ValueError: it returned anything but finite float32 pixels of the same shape, a defect of it.
        """
        member = DENOISERS.get(self.name)
        told = {} if psd is None else {"psd": psd}
        found = member.run(pixels, sigma, member.settings(**self.settings), **told)
        if found.shape != pixels.shape or found.dtype != np.float32 or not np.isfinite(found).all():
            raise ValueError(
                f"denoiser {self.name!r} was given float32 pixels {pixels.shape} and returned {found.dtype} pixels "
                f"{found.shape}, {np.count_nonzero(~np.isfinite(found))} of them NaN or infinite"
            )
        return found
