"""Augmentation on the device, inside the jitted step, so that it is a pure function of (seed, step, row).

Each is a file in `augmentations/` and off by default. Those that move pixels share one interpolation.
"""

import dataclasses
import zlib
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from osteojax.config import NotNegative, Share, no_such_key, read
from osteojax.errors import UserError
from osteojax.train import warp
from osteojax.train.augmentations.registry import AUGMENTATIONS, KINDS, Augmentation

_CHOICE = zlib.crc32(b"randaugment")


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """RandAugment (Cubuk et al. 2020), with two differences: no augmentation twice, and always in the same order.

    Attributes:
        rand_count: how many each image gets (N of the paper); 0 for all that are on.
        rand_magnitude: how strong those are that no key of their own switches on, as a share of the strongest (M / 10).
    """

    rand_count: Annotated[int, NotNegative] = 0
    rand_magnitude: Annotated[float, Share] = 0.5


class Chain(NamedTuple):
    """What is done to an image.

    Attributes:
        members: each augmentation that is on, with its settings, in the order of their application.
        choose: how many of them each image gets; 0 for all.
    """

    members: tuple[tuple[Augmentation, Any], ...]
    choose: int = 0


def chain(section: Mapping[str, Any]) -> Chain:
    """The augmentations that the keys of `augment` switch on.

    Raises:
        UserError: a key that no augmentation has, or a value that is not allowed.
    """
    values = dict(section)
    known = {key: name for name, member in AUGMENTATIONS.members.items() for key in _keys(member.settings)}
    known |= dict.fromkeys(_keys(RandAugment), "randaugment")
    for key in values:
        if key not in known:
            raise UserError(no_such_key(f"augment.{key}", known))
    rand = read(RandAugment, _of(values, RandAugment), "augment")
    found = []
    for member in AUGMENTATIONS.members.values():
        settings: Any = read(member.settings, _of(values, member.settings), "augment")
        if rand.rand_count and member.is_off(settings):
            settings = member.settings(**_at(member.strongest, rand.rand_magnitude))
        if not member.is_off(settings):
            found.append((member, settings))
    found.sort(key=lambda entry: KINDS.index(entry[0].kind))
    if rand.rand_count > len(found):
        raise UserError(
            f"augment.rand_count={rand.rand_count}, but there are {len(found)} augmentations to choose from"
        )
    return Chain(tuple(found), rand.rand_count)


def switched_on(section: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of `augment` that are not at their default."""
    settings = [RandAugment, *(member.settings for member in AUGMENTATIONS.members.values())]
    defaults = {field.name: field.default for one in settings for field in dataclasses.fields(one)}
    return {key: value for key, value in section.items() if key not in defaults or value != defaults[key]}


def _keys(settings: type) -> list[str]:
    return [field.name for field in dataclasses.fields(settings)]


def _of(values: Mapping[str, Any], settings: type) -> dict[str, Any]:
    return {key: values[key] for key in _keys(settings) if key in values}


def _at(strongest: Mapping[str, bool | float], magnitude: float) -> dict[str, bool | float]:
    return {
        key: value and magnitude > 0 if isinstance(value, bool) else magnitude * value
        for key, value in strongest.items()
    }


def apply(
    key: Key[Array, ""], image: Float[Array, "batch height width channels"], augmentations: Chain
) -> Float[Array, "batch height width channels"]:
    """Augments a batch.

    Args:
        key: of this step.
        image: (B, H, W, C) float32 in [0, 1].
        augmentations: as `chain` gives them.

    Returns:
        (B, H, W, C) float32 in [0, 1].
    """
    # One key per row, by its place in the global batch: the number of padding rows must not matter.
    keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(image.shape[0]))
    return apply_each(keys, image, augmentations)


def apply_each(
    keys: Key[Array, " batch"], image: Float[Array, "batch height width channels"], augmentations: Chain
) -> Float[Array, "batch height width channels"]:
    """As `apply`, with a key of its own for each image."""
    members, choose = augmentations
    if not members:
        return image
    last_warp = max((i for i, (member, _) in enumerate(members) if member.kind == "warp"), default=None)

    def one(row_key: jax.Array, x: jax.Array) -> jax.Array:
        rank = None
        if choose:
            rank = jax.random.permutation(jax.random.fold_in(row_key, _CHOICE), len(members))
        points = warp.still(*x.shape[:2])
        for place, (member, settings) in enumerate(members):
            keys = (jax.random.fold_in(row_key, draw) for draw in member.draws)
            if member.kind in ("geometry", "warp"):
                before = points if member.kind == "warp" else x
                after = member.function(before, *keys, settings=settings)
            else:  # a map beside the picture has no brightness, and nothing lies on it
                before = x
                after = jnp.concatenate(
                    [member.function(x[..., :1], *keys, settings=settings), x[..., 1:]], -1
                )
            if rank is not None:
                after = jnp.where(rank[place] < choose, after, before)
            if member.kind != "warp":
                x = after
                continue
            points = after
            if place == last_warp:
                x = warp.sample(x, points)
        return x

    return jax.vmap(one)(keys, image)
