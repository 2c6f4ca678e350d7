"""Which tensors of a foreign file make which parameter of ours.

A layout is a list of rules from the path of one of our modules to the foreign module's name; the leaves
(kernel, scale, ...) translate alike everywhere. Our side is enumerated from the architecture itself, so
nothing can be left out, and a foreign tensor that no rule asks for is an error, except the counters of
PyTorch's batch norm.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping

import numpy as np
from flax import nnx

from osteojax import models

Shape = tuple[int, ...]
Rule = tuple[str, str | Callable[[re.Match], str]]


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where one of our arrays comes from.

    Attributes:
        keys: the foreign tensors that it is made of.
        shapes: what they must look like; -1 in a head stands for any number of classes.
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
        ignored: pattern of foreign tensors that carry nothing.
        biased: pattern of our paths of convolutions that have a bias there. A bias before batch norm only
            shifts the mean: it is subtracted from the running mean, which is exact in both modes.
    """

    name: str
    rules: tuple[Rule, ...]
    ignored: str = r".*\.num_batches_tracked"
    biased: str | None = None

    def module(self, path: str) -> str:
        """The foreign name of our module at `path`."""
        for pattern, name in self.rules:
            if match := re.fullmatch(pattern, path):
                return name(match) if callable(name) else match.expand(name)
        raise KeyError(f"the {self.name} layout has no rule for {path}")


_BLOCK = r"stage(\d)/blocks/(\d+)/"

TORCHVISION_RESNET = Layout(
    "torchvision",
    (
        (r"stem/conv", "conv1"),
        (r"stem/conv/norm", "bn1"),
        (_BLOCK + r"conv(\d)", r"layer\1.\2.conv\3"),
        (_BLOCK + r"conv(\d)/norm", r"layer\1.\2.bn\3"),
        (_BLOCK + r"shortcut", r"layer\1.\2.downsample.0"),
        (_BLOCK + r"shortcut/norm", r"layer\1.\2.downsample.1"),
        (r"head/fc", "fc"),
    ),
)


def _hf_stage(match: re.Match) -> str:
    return f"resnet.encoder.stages.{int(match[1]) - 1}.layers.{match[2]}"


HF_RESNET = Layout(
    "huggingface",
    (
        (r"stem/conv", "resnet.embedder.embedder.convolution"),
        (r"stem/conv/norm", "resnet.embedder.embedder.normalization"),
        (_BLOCK + r"conv(\d)", lambda m: f"{_hf_stage(m)}.layer.{int(m[3]) - 1}.convolution"),
        (_BLOCK + r"conv(\d)/norm", lambda m: f"{_hf_stage(m)}.layer.{int(m[3]) - 1}.normalization"),
        (_BLOCK + r"shortcut", lambda m: f"{_hf_stage(m)}.shortcut.convolution"),
        (_BLOCK + r"shortcut/norm", lambda m: f"{_hf_stage(m)}.shortcut.normalization"),
        (r"head/fc", "classifier.1"),
    ),
)

LAYOUTS: Mapping[str, tuple[Layout, ...]] = {
    "resnet": (TORCHVISION_RESNET, HF_RESNET),
}
"""By family of architectures: the layouts in which its weights are published with PyTorch's tensor shapes."""

_LEAVES = {
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
    "kernel": "weight",
}


@functools.cache
def parameter_shapes(arch: str) -> Mapping[str, Shape]:
    """Path -> shape of every parameter and statistic of an architecture; the head's width is -1."""
    abstract = nnx.eval_shape(lambda: models.create(arch, rngs=nnx.Rngs(0)))
    state = nnx.state(abstract, (nnx.Param, nnx.BatchStat))
    shapes = {"/".join(map(str, path)): tuple(leaf.shape) for path, leaf in nnx.to_flat_state(state)}
    for leaf in ("head/fc/kernel", "head/fc/bias"):
        shapes[leaf] = (*shapes[leaf][:-1], -1)
    return shapes


def layouts_of(arch: str) -> tuple[Layout, ...]:
    """The layouts in which weights of this architecture are published."""
    return LAYOUTS[models.spec(arch).family]


def origins_of(layout: Layout, arch: str) -> dict[str, Origin]:
    """For each of our paths, the PyTorch tensors that it comes from."""
    origins = {}
    for path, shape in parameter_shapes(arch).items():
        module, leaf = path.rsplit("/", 1)
        keys = (f"{layout.module(module)}.{_LEAVES[leaf]}",)
        if leaf == "kernel" and len(shape) == 4:
            height, width, inputs, outputs = shape
            origins[path] = Origin(keys, ((outputs, inputs, height, width),), _from_oihw)
        elif leaf == "kernel":
            origins[path] = Origin(keys, (shape[::-1],), np.transpose)
        elif leaf == "mean" and layout.biased and re.fullmatch(layout.biased, module.removesuffix("/norm")):
            keys = (*keys, f"{layout.module(module.removesuffix('/norm'))}.bias")
            origins[path] = Origin(keys, (shape, shape), np.subtract)
        else:
            origins[path] = Origin(keys, (shape,), np.asarray)
    return origins


def _from_oihw(kernel: np.ndarray) -> np.ndarray:
    return kernel.transpose(2, 3, 1, 0)
