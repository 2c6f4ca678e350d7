"""Which tensors of a foreign file make which parameter of ours.

A layout (`osteojax.models.published.Layout`, in an architecture's own file) is a list of rules from the path of one of
our modules to the foreign module's name; the leaves (kernel, scale, ...) translate alike everywhere. Our side is
enumerated from the architecture itself, so nothing can be left out, and a foreign tensor that no rule asks for is an
error, except the counters of PyTorch's batch norm.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from flax import nnx

from osteojax import models
from osteojax.models.published import Layout, Shape

TORCH_LEAVES = MappingProxyType(
    {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
)
KERAS_LEAVES = MappingProxyType(
    {"kernel": "kernel", "scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"}
)
FLAX_LEAVES = MappingProxyType({"kernel": "kernel", "scale": "scale", "bias": "bias"})


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


@functools.cache
def parameter_shapes(arch: str) -> Mapping[str, Shape]:
    """Path -> shape of every parameter and statistic of an architecture; the head's width is -1."""
    abstract = nnx.eval_shape(lambda: models.create(arch, rngs=nnx.Rngs(0)))
    state = nnx.state(abstract, (nnx.Param, nnx.BatchStat))
    shapes = {"/".join(map(str, path)): tuple(leaf.shape) for path, leaf in nnx.to_flat_state(state)}
    for leaf in ("head/fc/kernel", "head/fc/bias"):
        shapes[leaf] = (*shapes[leaf][:-1], -1)
    return MappingProxyType(shapes)


def origins_of(layout: Layout, arch: str) -> dict[str, Origin]:
    """For each of an architecture's paths, the foreign tensors that it comes from."""
    leaves = KERAS_LEAVES if layout.keras else FLAX_LEAVES if layout.flax else TORCH_LEAVES
    separator = "/" if layout.keras or layout.flax else "."
    swap_channels = layout.keras and models.ARCHITECTURES.get(arch).preprocessing.channel_order == "BGR"
    origins = {}
    for path, shape in parameter_shapes(arch).items():
        if path in layout.joined:
            made = layout.joined[path]
            origins[path] = Origin(made.keys, made.shapes, made.convert)
            continue
        module, leaf = path.rsplit("/", 1)
        own = layout.tensor(path)
        # Only batch norm's bias has a name of its own in Keras.
        keys: tuple[str, ...] = (
            own
            or f"{layout.module(module)}{separator}"
            f"{leaves[leaf] if module != 'head/fc' or leaf == 'kernel' else 'bias'}",
        )
        convolution = module.removesuffix("/norm")
        if path in layout.kernels:
            foreign, convert = layout.kernels[path]
            origins[path] = Origin(keys, (foreign,), convert)
        elif leaf == "kernel" and (layout.keras or layout.flax):
            flip = swap_channels and module == "stem/conv"
            origins[path] = Origin(keys, (shape,), _swap_input_channels if flip else np.asarray)
        elif leaf == "kernel" and len(shape) == 4:
            height, width, inputs, outputs = shape
            origins[path] = Origin(keys, ((outputs, inputs, height, width),), _from_oihw)
        elif leaf == "kernel":
            origins[path] = Origin(keys, (shape[::-1],), np.transpose)
        elif leaf == "mean" and re.fullmatch(layout.biased, convolution):
            keys = (*keys, f"{layout.module(convolution)}{separator}bias")
            origins[path] = Origin(keys, (shape, shape), np.subtract)
        else:
            origins[path] = Origin(keys, (shape,), np.asarray)
    return origins


def _from_oihw(kernel: np.ndarray) -> np.ndarray:
    return kernel.transpose(2, 3, 1, 0)


def _swap_input_channels(kernel: np.ndarray) -> np.ndarray:
    """BGR <-> RGB of an HWIO kernel."""
    return kernel[:, :, ::-1]
