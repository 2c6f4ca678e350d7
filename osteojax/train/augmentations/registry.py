"""What an augmentation is, and the registry that `augment.*` chooses from."""

import dataclasses
import zlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal

import jax

from osteojax.registry import Registry

# In the order of their application: what exchanges pixels, what moves them by interpolation, what changes their values,
# what covers them.
KINDS = ("geometry", "warp", "intensity", "occlusion")
Kind = Literal["geometry", "warp", "intensity", "occlusion"]


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """One random change of an image.

    Attributes:
        function: `f(image, *keys, settings) -> image`, of one image (H, W, C) float32 in [0, 1], under `jax.jit`; of
            kind "warp" `f(points, *keys, settings) -> points`, see `osteojax.train.warp`.
        settings: frozen dataclass; its fields are keys of `augment`, and at their defaults it is off.
        kind: one of `KINDS`, which says what is done before what.
        draws: numbers of its random streams, each its own: one key is passed for each.
        strongest: settings at the full magnitude of RandAugment, which leaves out a member that has none.
    """

    function: Callable[..., jax.Array]
    settings: type
    kind: Kind
    draws: tuple[int, ...]
    strongest: Mapping[str, bool | float]

    def is_off(self, settings: Any) -> bool:
        """Whether these settings leave an image as it is."""
        return bool(settings == self.settings())


AUGMENTATIONS: Registry[Augmentation] = Registry("augmentation")


def augmentation(
    name: str,
    *,
    settings: type,
    kind: Kind,
    draws: tuple[int, ...] = (),
    strongest: Mapping[str, bool | float] = MappingProxyType({}),
) -> Callable[[Callable[..., jax.Array]], Callable[..., jax.Array]]:
    """Decorator that registers a function as an augmentation; the arguments are the fields of `Augmentation`.

    Without `draws` it has one stream, whose number follows from its name: no member changes the draws of another.
    """

    def register(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        streams = draws or (zlib.crc32(name.encode()),)
        AUGMENTATIONS.register(name)(Augmentation(function, settings, kind, streams, strongest))
        return function

    return register
