"""Loading ImageNet weights of any supported origin and putting them into a model."""

import dataclasses
import functools
import hashlib
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from flax import nnx

from osteojax import models
from osteojax.errors import UserError
from osteojax.models.published import Layout, Shape
from osteojax.weights import formats  # noqa: F401  fills the registry
from osteojax.weights.formats.registry import Format, read
from osteojax.weights.formats.tensors import Tensors
from osteojax.weights.layouts import Origin, origins_of, parameter_shapes
from osteojax.weights.sources import Located, locate

log = logging.getLogger(__name__)

METADATA_KEY = "osteojax"
"""Under this key of a safetensors file's metadata our own files carry their provenance, as JSON."""

HEAD = ("head/fc/kernel", "head/fc/bias")
"""The last linear layer, the only one whose shape depends on the classes."""


@dataclasses.dataclass(frozen=True)
class WeightsFile:
    """Weights in our names and layout.

    Attributes:
        arch: the registry's name of the architecture.
        arrays: path ("stage1/blocks/0/conv1/kernel") -> float32 array, for all parameters and running
            statistics; without those of the head where the file has none.
        provenance: JSON-able record of where they come from: `source`, `sha256`, `layout`, `licence`, `arch`,
            `num_classes` (None without a head), `mean` and `std` (of RGB in [0, 1]).
    """

    arch: str
    arrays: Mapping[str, np.ndarray]
    provenance: Mapping[str, Any]


def load(source: str | Path, arch: str) -> WeightsFile:
    """Reads weights for an architecture and converts them to our layout.

    Args:
        source: a path (PyTorch's `.pth`, `.pt`, `.bin`, `.ckpt`, a `.npz`, `.safetensors`, Keras's `.h5`, the
            project's own files among them; told by their content) or a name, see
            `osteojax.weights.sources.locate`: "imagenet" for the architecture's
            published weights, "pip:efficientnet_lite0", or "https://...#sha256=<hex>".
        arch: the registry's name of the architecture that they belong to.

    Raises:
        UserError: no such file or architecture, no network, a damaged or hostile file, or tensors that do
            not fit: one message names every missing, extra and mis-shaped one.
    """
    entry = models.ARCHITECTURES.get(arch)
    located = locate(source, entry)
    path = located.path
    found, tensors, metadata = read(path)
    if METADATA_KEY in metadata:
        own = _own_provenance(path, metadata[METADATA_KEY])
        if own.get("arch") != arch:
            raise UserError(f"{path} holds weights of {own.get('arch')!r}, not of {arch!r}")
        origins = {key: Origin((key,), (shape,), np.asarray) for key, shape in parameter_shapes(arch).items()}
        arrays = _collect(path, tensors, origins, ignored=r"(?!)", what=f"{arch} in our own layout")
        return WeightsFile(arch, arrays, own)
    layout, origins, tensors = _best_layout(path, entry, found, tensors)
    arrays = _collect(path, tensors, origins, layout.ignored, f"{arch} in the {layout.name} layout")
    classes = arrays[HEAD[1]].shape[0] if HEAD[1] in arrays else None
    return WeightsFile(arch, arrays, _provenance(located, entry, layout, classes))


def apply(model: models.Backbone, weights: WeightsFile, *, head: Literal["reset", "keep"] = "reset") -> None:
    """Sets the model's parameters and running statistics, in place.

    Args:
        model: from `models.create`, of the same architecture.
        weights: from `load`.
        head: "reset" leaves the last linear layer as the model was initialised (a new head for new
            classes); "keep" sets it too, which needs the same number of classes.

    Raises:
        UserError: another architecture, or "keep" with another number of classes.
    """
    if model.arch != weights.arch:
        raise UserError(f"weights of {weights.arch!r} do not fit a model of {model.arch!r}")
    state = nnx.state(model, (nnx.Param, nnx.BatchStat))
    flat = {"/".join(map(str, path)): variable for path, variable in nnx.to_flat_state(state)}
    if head == "keep":
        if HEAD[1] not in weights.arrays:
            raise UserError("the weights have no head: use head='reset' for a new one")
        classes = {"model": flat[HEAD[1]].shape[0], "weights": weights.arrays[HEAD[1]].shape[0]}
        if classes["model"] != classes["weights"]:
            raise UserError(
                f"the weights' head has {classes['weights']} classes, the model's {classes['model']}: "
                "use head='reset' for a new head"
            )
    for path, variable in flat.items():
        absent = path.startswith("head/") and path not in weights.arrays
        if absent or (head == "reset" and path in HEAD):
            continue
        variable[...] = jnp.asarray(weights.arrays[path], variable.dtype)
    nnx.update(model, state)


def _provenance(
    located: Located, entry: models.Architecture, layout: Layout, num_classes: int | None
) -> dict[str, Any]:
    with located.path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    licence = "not stated by the file"
    if entry.weights is not None and sha256.startswith(entry.weights.sha256):
        licence = entry.weights.licence
    return {
        "arch": entry.name,
        "source": located.origin,
        "sha256": sha256,
        "layout": layout.name,
        "licence": licence,
        "num_classes": num_classes,
        "mean": list(entry.preprocessing.mean),
        "std": list(entry.preprocessing.std),
    }


def _own_provenance(path: Path, text: str) -> dict[str, Any]:
    try:
        provenance = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path}: its provenance is damaged ({error}); convert again") from error
    if not isinstance(provenance, dict):
        raise UserError(f"{path}: its provenance is no JSON object; convert again")
    return provenance


def _best_layout(
    path: Path, entry: models.Architecture, found: Format, tensors: Tensors
) -> tuple[Layout, dict[str, Origin], Tensors]:
    """The layout of which the file has the most tensors, and these by the layout's names.

    What is missing is then told in the right names. A trainer puts its own names before the network's (`module.`,
    `model.backbone.`): the prefix is the one that explains the most.
    """
    layouts = [layout for layout in entry.layouts if layout.keras == found.keras]
    if not layouts:
        readable = [
            name
            for name, other in models.ARCHITECTURES.members.items()
            if any(layout.keras == found.keras for layout in other.layouts)
        ]
        raise UserError(
            f"{path}: {entry.name} is not read from a {found.name}, which has other strides or layers; "
            f"these are: {', '.join(readable)}"
        )
    candidates = []
    for layout in layouts:
        origins = origins_of(layout, entry.name)
        wanted = {key for origin in origins.values() for key in origin.keys}
        lead = _lead(origins)
        # A backbone saved on its own lacks the name that it has in the whole model (`resnet.`, `features.`).
        for own in dict.fromkeys(("", lead)):
            for prefix in _prefixes(tensors, _first(origins).keys[0].removeprefix(own)):
                if own and prefix.endswith(own):
                    continue
                named = {
                    own + name.removeprefix(prefix): t
                    for name, t in tensors.items()
                    if name.startswith(prefix)
                }
                candidates.append((len(wanted & named.keys()), layout, origins, named, prefix))
    count, layout, origins, named, prefix = max(candidates, key=lambda candidate: candidate[0])
    equal = {other for n, of, _, _, other in candidates if n == count and of is layout} - {prefix}
    if count and equal:
        raise UserError(
            f"{path} holds {len(equal) + 1} networks that fit, {', '.join(sorted({prefix, *equal}))}: "
            "save the one that is meant in a file of its own"
        )
    if not count:
        raise UserError(
            f"{path} holds no tensor of {entry.name}; it has {', '.join(list(tensors)[:4])}"
            f"{', ...' if len(tensors) > 4 else ''}; is it another architecture's?"
        )
    beside = [name for name in tensors if not name.startswith(prefix)]
    if beside:
        log.info("%s: beside %s* there are %s, which are not read", path, prefix, ", ".join(beside[:8]))
    return layout, origins, named


def _first(origins: Mapping[str, Origin]) -> Origin:
    """Of the first convolution, which takes the image."""
    return next(of for path, of in origins.items() if path.startswith("stem/") and path.endswith("/kernel"))


def _lead(origins: Mapping[str, Origin]) -> str:
    """What all names of the layout's backbone begin with; "" where they have nothing in common."""
    body = [key for path, of in origins.items() if not path.startswith("head/") for key in of.keys]
    first, dot, _ = body[0].partition(".")
    return first + dot if dot and all(key.startswith(first + dot) for key in body) else ""


def _prefixes(tensors: Tensors, first: str) -> list[str]:
    """What may stand before the network's own names: whatever stands before its first kernel, or nothing."""
    found = {name.removesuffix(first) for name in tensors if name.endswith(first)}
    return ["", *sorted(prefix for prefix in found if prefix.endswith((".", "/")))]


def _collect(
    path: Path, tensors: Tensors, origins: Mapping[str, Origin], ignored: str, what: str
) -> dict[str, np.ndarray]:
    """All arrays in our layout, or one error that names every tensor that does not fit."""
    wanted = {
        key: shape
        for origin in origins.values()
        for key, shape in zip(origin.keys, origin.shapes, strict=True)
    }
    of_head = {key for path_, origin in origins.items() if path_.startswith("head/") for key in origin.keys}
    if not of_head & tensors.keys():  # a backbone alone
        origins = {path_: origin for path_, origin in origins.items() if not path_.startswith("head/")}
        wanted = {key: shape for key, shape in wanted.items() if key not in of_head}
    missing = [key for key in wanted if key not in tensors]
    extra = [key for key in tensors if key not in wanted and not re.fullmatch(ignored, key)]
    misshaped = [
        f"{key} is {tensors[key].shape} {tensors[key].dtype}, not {_shape_text(shape)} floating point"
        for key, shape in wanted.items()
        if key in tensors and not (tensors[key].is_float and _fits(tensors[key].shape, shape))
    ]
    problems = [
        f"{len(names)} {kind}: {', '.join(names)}"
        for kind, names in (("missing", missing), ("extra", extra), ("mis-shaped", misshaped))
        if names
    ]
    if len(problems) == len(misshaped) == 1:
        _explain_grey(path, tensors, _first(origins))
    if problems:
        raise UserError(f"{path} does not hold {what}: {'; '.join(problems)}")

    values = functools.cache(lambda key: tensors[key].read())
    arrays = {}
    for name, origin in origins.items():
        arrays[name] = np.ascontiguousarray(origin.convert(*map(values, origin.keys)), np.float32)
    broken = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if broken:
        raise UserError(f"{path}: not finite: {', '.join(broken)}")
    if HEAD[0] in arrays and arrays[HEAD[0]].shape[1] != arrays[HEAD[1]].shape[0]:
        raise UserError(f"{path}: the head's kernel and bias disagree about the number of classes")
    return arrays


def _explain_grey(path: Path, tensors: Tensors, first: Origin) -> None:
    """Raises UserError if all that does not fit is that the first convolution takes one channel."""
    for key, shape in zip(first.keys, first.shapes, strict=True):
        if _is_grey(tensors[key].shape, shape):
            raise UserError(
                f"{path}: {key} has one input channel: this network learned from grey images, and the file does not "
                "tell how they were normalised; if as ImageNet's grey, repeat the kernel over three channels, a "
                "third of it each, and load that"
            )


def _is_grey(shape: Shape, wanted: Shape) -> bool:
    return len(shape) == len(wanted) and [(s, w) for s, w in zip(shape, wanted, strict=True) if s != w] == [
        (1, 3)
    ]


def _fits(shape: Shape, wanted: Shape) -> bool:
    return len(shape) == len(wanted) and all(w in (-1, s) for s, w in zip(shape, wanted, strict=True))


def _shape_text(shape: Shape) -> str:
    return "(" + ", ".join("classes" if size == -1 else str(size) for size in shape) + ")"
