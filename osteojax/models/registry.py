"""One name selects architecture, default weights and their preprocessing (a habit of timm)."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from osteojax.errors import UserError
from osteojax.models.backbone import Backbone
from osteojax.models.layers.convolution import Input, LayerOptions
from osteojax.models.published import IMAGENET, Layout, Preprocessing, WeightsSource
from osteojax.registry import Registry


class Build(Protocol):
    """An architecture's constructor."""

    def __call__(
        self, arch: str, classes: int, *, image: Input, options: LayerOptions, rngs: nnx.Rngs
    ) -> nnx.Module:
        """The network with random parameters.

        Args:
            arch: name in the registry, to be kept by the network.
            classes: width of the logits; output channels where it is no classifier.
            image: channels of the images, and the mean and std to normalise them by.
            options: what all layers share.
            rngs: the stream `params` is drawn from.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Architecture:
    """An entry of the registry.

    Attributes:
        name: the registry's key.
        build: constructor.
        preprocessing, weights: of the default ImageNet weights; `weights` is None where none are published
            with a SHA-256.
        top1: accuracy in % on ImageNet's 50,000 validation images that the publisher states for them, one centre crop
            an image; None where none is known here.
        layouts: in which its weights are published.
        options: what it sets in `LayerOptions`.
        classifies: whether it is a `Backbone`, which experiments can train; segmentation and denoising networks
            are not.
    """

    name: str
    build: Build
    preprocessing: Preprocessing = IMAGENET
    weights: WeightsSource | None = None
    top1: float | None = None
    layouts: tuple[Layout, ...] = ()
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    classifies: bool = True


ARCHITECTURES: Registry[Architecture] = Registry("architecture")


def architecture(name: str, **fields: Any) -> Callable[[Build], Build]:
    """Decorator that registers a constructor; `fields` are those of `Architecture`."""

    def register(build: Build) -> Build:
        ARCHITECTURES.register(name)(Architecture(name, build, **fields))
        return build

    return register


def classifiers() -> dict[str, Architecture]:
    """Name -> architecture of those that an experiment can train."""
    return {name: entry for name, entry in ARCHITECTURES.members.items() if entry.classifies}


def create(
    name: str,
    *,
    num_classes: int = 3,
    in_channels: int = 1,
    rngs: nnx.Rngs,
    dtype: DTypeLike = jnp.float32,
    **options: Any,
) -> Backbone:
    """A classifier with random parameters, in training mode.

    Args:
        name: of the registry.
        num_classes: width of the logits.
        in_channels: 1 (grey) or 3 (RGB). The parameters are the same, so weights fit either.
        rngs: the stream `params` is drawn from.
        dtype: compute dtype; parameters and statistics are float32, logits too.
        **options: fields of `LayerOptions`, say `bn_parts` or `conv_impl`.

    Raises:
        UserError: no such name, or it is no classifier.
        ValueError: `in_channels` is neither 1 nor 3.
        TypeError: no such option.
    """
    entry = ARCHITECTURES.get(name)
    if not entry.classifies:
        raise UserError(f"{name} is no classifier; classifiers are {', '.join(classifiers())}")
    model = entry.build(
        name,
        num_classes,
        image=Input(in_channels, entry.preprocessing.mean, entry.preprocessing.std),
        options=LayerOptions(**{**entry.options, **options}, dtype=dtype),
        rngs=rngs,
    )
    assert isinstance(model, Backbone)
    return model
