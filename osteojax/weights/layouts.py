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
from types import MappingProxyType

import numpy as np
from flax import nnx

from osteojax import models

Shape = tuple[int, ...]
Rule = tuple[str, str | Callable[[re.Match], str]]

TORCH_LEAVES = MappingProxyType(
    {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
)
KERAS_LEAVES = MappingProxyType(
    {"kernel": "kernel", "scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"}
)


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
        keras: whether tensors have Keras's leaf names and shapes (HWIO), not PyTorch's (OIHW).
        biased: pattern of our paths of convolutions that have a bias there. A bias before batch norm only
            shifts the mean: it is subtracted from the running mean, which is exact in both modes.
        kernels: by our path, how kernels of another shape than usual are stored and converted.
        ignored: pattern of foreign tensors that carry nothing.
    """

    name: str
    rules: tuple[Rule, ...]
    keras: bool = False
    biased: str = r"(?!)"
    kernels: Mapping[str, tuple[Shape, Callable[[np.ndarray], np.ndarray]]] = dataclasses.field(
        default_factory=dict
    )
    ignored: str = r".*\.num_batches_tracked"

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


def _hf_block(match: re.Match) -> str:
    return f"resnet.encoder.stages.{int(match[1]) - 1}.layers.{match[2]}"


HF_RESNET = Layout(
    "huggingface",
    (
        (r"stem/conv", "resnet.embedder.embedder.convolution"),
        (r"stem/conv/norm", "resnet.embedder.embedder.normalization"),
        (_BLOCK + r"conv(\d)", lambda m: f"{_hf_block(m)}.layer.{int(m[3]) - 1}.convolution"),
        (_BLOCK + r"conv(\d)/norm", lambda m: f"{_hf_block(m)}.layer.{int(m[3]) - 1}.normalization"),
        (_BLOCK + r"shortcut", lambda m: f"{_hf_block(m)}.shortcut.convolution"),
        (_BLOCK + r"shortcut/norm", lambda m: f"{_hf_block(m)}.shortcut.normalization"),
        (r"head/fc", "classifier.1"),
    ),
)


def _keras_block(match: re.Match) -> str:
    return f"conv{int(match[1]) + 1}_block{int(match[2]) + 1}"


KERAS_RESNET = Layout(
    "keras",
    (
        (r"stem/conv", "conv1_conv"),
        (r"stem/conv/norm", "conv1_bn"),
        (_BLOCK + r"conv(\d)", lambda m: f"{_keras_block(m)}_{m[3]}_conv"),
        (_BLOCK + r"conv(\d)/norm", lambda m: f"{_keras_block(m)}_{m[3]}_bn"),
        (_BLOCK + r"shortcut", lambda m: f"{_keras_block(m)}_0_conv"),
        (_BLOCK + r"shortcut/norm", lambda m: f"{_keras_block(m)}_0_bn"),
        (r"head/fc", "predictions"),
    ),
    keras=True,
    biased=r".*",
)

# EfficientNet-Lite0: blocks before each of our stages in the flat numbering, and (group, repeat) in timm's.
_LITE_OFFSET = {"1": 0, "2": 3, "3": 5, "4": 11}
_LITE_REPEATS = (1, 2, 2, 3, 3, 4, 1)
_LITE_GROUPS = [(g, r) for g, repeats in enumerate(_LITE_REPEATS) for r in range(repeats)]


def _lite_block(match: re.Match) -> str:
    return f"_blocks.{_LITE_OFFSET[match[1]] + int(match[2])}"


def _timm_lite_module(match: re.Match) -> str:
    """timm's first group has no expansion, and its names shift by one."""
    group, repeat = _LITE_GROUPS[_LITE_OFFSET[match[1]] + int(match[2])]
    roles = ("depthwise", "project") if group == 0 else ("expand", "depthwise", "project")
    convs = ("conv_dw", "conv_pw") if group == 0 else ("conv_pw", "conv_dw", "conv_pwl")
    position = roles.index(match[3])
    is_norm = match[0].endswith("/norm")
    return f"blocks.{group}.{repeat}.{f'bn{position + 1}' if is_norm else convs[position]}"


_LITE_LAST = r"stage4/blocks/5/conv"

LUKEMELAS_LITE = Layout(
    "efficientnet-pytorch",
    (
        (r"stem/conv", "_conv_stem"),
        (r"stem/conv/norm", "_bn0"),
        (_LITE_LAST, "_conv_head"),
        (_LITE_LAST + "/norm", "_bn1"),
        (_BLOCK + r"(expand|depthwise|project)", lambda m: f"{_lite_block(m)}._{m[3]}_conv"),
        (_BLOCK + r"expand/norm", lambda m: f"{_lite_block(m)}._bn0"),
        (_BLOCK + r"depthwise/norm", lambda m: f"{_lite_block(m)}._bn1"),
        (_BLOCK + r"project/norm", lambda m: f"{_lite_block(m)}._bn2"),
        (r"head/fc", "_fc"),
    ),
)

TIMM_LITE = Layout(
    "timm",
    (
        (r"stem/conv", "conv_stem"),
        (r"stem/conv/norm", "bn1"),
        (_LITE_LAST, "conv_head"),
        (_LITE_LAST + "/norm", "bn2"),
        (_BLOCK + r"(expand|depthwise|project)(?:/norm)?", _timm_lite_module),
        (r"head/fc", "classifier"),
    ),
)

# VGG-16: where each group of convolutions starts in the list of layers (3 a convolution, 1 a pooling).
_VGG_START = {"stem": 0, "stage1": 7, "stage2": 14, "stage3": 24, "stage4": 34}


def _vgg_layer(match: re.Match) -> str:
    return f"features.{_VGG_START[match[1]] + 3 * int(match[2]) + match[0].endswith('/norm')}"


def _from_chw_rows(kernel: np.ndarray) -> np.ndarray:
    """A dense kernel over features flattened as (C, 7, 7) -> ours, over (7, 7, C)."""
    return kernel.reshape(4096, 512, 7, 7).transpose(2, 3, 1, 0).reshape(-1, 4096)


_VGG_CONVS = (r"(stem|stage\d)/convs/(\d)(?:/norm)?", _vgg_layer)
_VGG_BIASED = r"(stem|stage\d)/convs/\d"

TORCHVISION_VGG = Layout(
    "torchvision",
    (
        _VGG_CONVS,
        (r"head/fc1", "classifier.0"),
        (r"head/fc2", "classifier.3"),
        (r"head/fc", "classifier.6"),
    ),
    biased=_VGG_BIASED,
    kernels={"head/fc1/kernel": ((4096, 512 * 7 * 7), _from_chw_rows)},
)

TIMM_VGG = Layout(
    "timm",
    (
        _VGG_CONVS,
        (r"head/fc1", "pre_logits.fc1"),
        (r"head/fc2", "pre_logits.fc2"),
        (r"head/fc", "head.fc"),
    ),
    biased=_VGG_BIASED,
    kernels={
        "head/fc1/kernel": ((4096, 512, 7, 7), _from_chw_rows),
        "head/fc2/kernel": ((4096, 4096, 1, 1), lambda kernel: kernel.reshape(4096, 4096).T),
    },
)


def _densenet(name: str, separator: str) -> Layout:
    """`separator` is what stands between "norm" or "conv" and its number in a dense layer."""

    def layer(match: re.Match) -> str:
        return f"features.denseblock{match[1]}.denselayer{int(match[2]) + 1}"

    def transition(match: re.Match) -> str:
        return f"features.transition{int(match[1]) - 1}"

    return Layout(
        name,
        (
            (r"stem/conv", "features.conv0"),
            (r"stem/conv/norm", "features.norm0"),
            (_BLOCK + r"norm", lambda m: f"{layer(m)}.norm{separator}1"),
            (_BLOCK + r"conv1", lambda m: f"{layer(m)}.conv{separator}1"),
            (_BLOCK + r"conv1/norm", lambda m: f"{layer(m)}.norm{separator}2"),
            (_BLOCK + r"conv2", lambda m: f"{layer(m)}.conv{separator}2"),
            (r"stage(\d)/transition/norm", lambda m: f"{transition(m)}.norm"),
            (r"stage(\d)/transition/conv", lambda m: f"{transition(m)}.conv"),
            (r"stage4/final/norm", "features.norm5"),
            (r"head/fc", "classifier"),
        ),
    )


LAYOUTS: Mapping[str, tuple[Layout, ...]] = MappingProxyType(
    {
        "resnet": (TORCHVISION_RESNET, HF_RESNET),
        "resnet_v1": (KERAS_RESNET,),
        "efficientnet_lite": (LUKEMELAS_LITE, TIMM_LITE),
        "vgg": (TORCHVISION_VGG, TIMM_VGG),
        # torchvision's own file still has the names of PyTorch 0.3 ("norm.1").
        "densenet": (_densenet("torchvision", ""), _densenet("torchvision (2017)", ".")),
    }
)
"""By family of architectures: the layouts in which its weights are published."""


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
    leaves = KERAS_LEAVES if layout.keras else TORCH_LEAVES
    separator = "/" if layout.keras else "."
    swap_channels = layout.keras and models.spec(arch).preprocessing.channel_order == "BGR"
    origins = {}
    for path, shape in parameter_shapes(arch).items():
        module, leaf = path.rsplit("/", 1)
        name = layout.module(module)
        # Only batch norm's bias has a name of its own in Keras.
        keys = (f"{name}{separator}{leaves[leaf] if module != 'head/fc' or leaf == 'kernel' else 'bias'}",)
        convolution = module.removesuffix("/norm")
        if path in layout.kernels:
            foreign, convert = layout.kernels[path]
            origins[path] = Origin(keys, (foreign,), convert)
        elif leaf == "kernel" and layout.keras:
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
