"""How an architecture describes its published weights: what they expect, where they are, how they are named.

Descriptions alone: `osteojax.weights` reads the files.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping

import numpy as np

Shape = tuple[int, ...]
Rule = tuple[str, str | Callable[[re.Match[str]], str]]


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
        package: the Python package that carries the file, where one does.
    """

    url: str
    sha256: str
    licence: str
    package: "Package | None" = None


@dataclasses.dataclass(frozen=True)
class Package:
    """A Python package that carries weights.

    Attributes:
        name: as it is imported.
        file: within the package.
        extra: of this project that installs it.
    """

    name: str
    file: str
    extra: str


@dataclasses.dataclass(frozen=True)
class Joined:
    """One of our arrays that a file holds in another shape or in several pieces.

    Attributes:
        keys: the foreign tensors.
        shapes: of each.
        convert: from those arrays to ours.
    """

    keys: tuple[str, ...]
    shapes: tuple[Shape, ...]
    convert: Callable[..., np.ndarray]


@dataclasses.dataclass(frozen=True)
class Layout:
    """The naming of one origin for one family of architectures.

    Attributes:
        name: of the origin, for messages and provenance.
        rules: (pattern of our module's whole path, foreign module's name).
        keras: whether tensors have Keras's leaf names and shapes (HWIO), not PyTorch's (OIHW).
        flax: whether they have Flax's, which are ours, with slashes between names.
        biased: pattern of our paths of convolutions that have a bias there. A bias before batch norm only
            shifts the mean: it is subtracted from the running mean, which is exact in both modes.
        kernels: by our path, how kernels and others of another shape than usual are stored and converted.
        tensors: (pattern of the whole path of one of our arrays, foreign tensor's name) of what is no kernel, bias or
            statistic of a layer, such as the positions of tokens.
        joined: by our path, what is made of several foreign tensors, or reshaped.
        ignored: pattern of foreign tensors that carry nothing.
    """

    name: str
    rules: tuple[Rule, ...]
    keras: bool = False
    flax: bool = False
    biased: str = r"(?!)"
    kernels: Mapping[str, tuple[Shape, Callable[[np.ndarray], np.ndarray]]] = dataclasses.field(
        default_factory=dict
    )
    tensors: tuple[Rule, ...] = ()
    joined: Mapping[str, Joined] = dataclasses.field(default_factory=dict)
    ignored: str = r".*\.num_batches_tracked"

    def module(self, path: str) -> str:
        """The foreign name of our module at `path`."""
        name = _renamed(self.rules, path)
        if name is None:
            raise KeyError(f"the {self.name} layout has no rule for {path}")
        return name

    def tensor(self, path: str) -> str | None:
        """The foreign name of our array at `path`, where it has one of its own."""
        return _renamed(self.tensors, path)


def _renamed(rules: tuple[Rule, ...], path: str) -> str | None:
    for pattern, name in rules:
        if match := re.fullmatch(pattern, path):
            return name(match) if callable(name) else match.expand(name)
    return None


IMAGENET = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
# Caffe's: BGR on 0..255 minus (103.939, 116.779, 123.68), no division.
CAFFE = Preprocessing(
    mean=(123.68 / 255, 116.779 / 255, 103.939 / 255),
    std=(1 / 255, 1 / 255, 1 / 255),
    scaling="[0, 255], minus mean (caffe)",
    channel_order="BGR",
)


def torchvision(file: str) -> WeightsSource:
    """torchvision puts the first eight digits of the SHA-256 into the file's name."""
    return WeightsSource(
        url=f"https://download.pytorch.org/models/{file}",
        sha256=file.removesuffix(".pth").rsplit("-", 1)[1],
        licence="torchvision model weights: code BSD-3-Clause, trained on ImageNet (its terms: research)",
    )


BLOCK = r"stage(\d)/blocks/(\d+)/"
"""Of our module paths: stage and block."""
