"""Loading ImageNet weights of any supported origin and putting them into a model."""

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from flax import nnx

from osteojax import models
from osteojax.errors import UserError
from osteojax.weights.formats.keras_h5 import read_keras_h5
from osteojax.weights.formats.npz import read_npz
from osteojax.weights.formats.pth import read_pth
from osteojax.weights.formats.safetensors_file import read_safetensors
from osteojax.weights.formats.tensors import Tensors
from osteojax.weights.layouts import LAYOUTS, Layout, Origin, Shape, origins_of, parameter_shapes
from osteojax.weights.sources import Located, locate

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
            statistics.
        provenance: JSON-able record of where they come from: `source`, `sha256`, `layout`, `licence`, `arch`,
            `num_classes`, `mean` and `std` (of RGB in [0, 1]).
    """

    arch: str
    arrays: Mapping[str, np.ndarray]
    provenance: Mapping[str, Any]


def load(source: str | Path, arch: str) -> WeightsFile:
    """Reads weights for an architecture and converts them to our layout.

    Args:
        source: a path (`.pth`, `.pt`, `.bin`, `.npz`, `.safetensors`, `.h5`, the project's own files among
            them) or a name, see `osteojax.weights.sources.locate`: "imagenet" for the architecture's
            published weights, "pip:efficientnet_lite0", or "https://...#sha256=<hex>".
        arch: the registry's name of the architecture that they belong to.

    Raises:
        UserError: no such file or architecture, no network, a damaged or hostile file, or tensors that do
            not fit: one message names every missing, extra and mis-shaped one.
    """
    entry = models.spec(arch)
    located = locate(source, entry)
    path = located.path
    tensors, own = _read(path)
    if own is not None:
        if own.get("arch") != arch:
            raise UserError(f"{path} holds weights of {own.get('arch')!r}, not of {arch!r}")
        origins = {key: Origin((key,), (shape,), np.asarray) for key, shape in parameter_shapes(arch).items()}
        arrays = _collect(path, tensors, origins, ignored=r"(?!)", what=f"{arch} in our own layout")
        return WeightsFile(arch, arrays, own)
    layout, origins = _best_layout(path, entry, tensors)
    arrays = _collect(path, tensors, origins, layout.ignored, f"{arch} in the {layout.name} layout")
    return WeightsFile(arch, arrays, _provenance(located, entry, layout, arrays[HEAD[1]].shape[0]))


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
    classes = {"model": flat[HEAD[1]].shape[0], "weights": weights.arrays[HEAD[1]].shape[0]}
    if head == "keep" and classes["model"] != classes["weights"]:
        raise UserError(
            f"the weights' head has {classes['weights']} classes, the model's {classes['model']}: "
            "use head='reset' for a new head"
        )
    for path, variable in flat.items():
        if head == "reset" and path in HEAD:
            continue
        variable[...] = jnp.asarray(weights.arrays[path], variable.dtype)
    nnx.update(model, state)


def _provenance(located: Located, entry: models.Spec, layout: Layout, num_classes: int) -> dict[str, Any]:
    with located.path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    published = entry.weights is not None and sha256.startswith(entry.weights.sha256)
    return {
        "arch": entry.name,
        "source": located.origin,
        "sha256": sha256,
        "layout": layout.name,
        "licence": entry.weights.licence if published else "not stated by the file",
        "num_classes": num_classes,
        "mean": list(entry.preprocessing.mean),
        "std": list(entry.preprocessing.std),
    }


def _read(path: Path) -> tuple[Tensors, dict[str, Any] | None]:
    """The file's tensors and, if the file is one of ours, its provenance."""
    match path.suffix:
        case ".pth" | ".pt" | ".bin":
            return _without_prefix(read_pth(path)), None
        case ".npz":
            return _without_prefix(read_npz(path)), None
        case ".h5":
            return read_keras_h5(path), None
        case ".safetensors":
            tensors, metadata = read_safetensors(path)
            if METADATA_KEY not in metadata:
                return _without_prefix(tensors), None
            try:
                provenance = json.loads(metadata[METADATA_KEY])
            except ValueError as error:
                raise UserError(f"{path}: its provenance is damaged ({error}); convert again") from error
            if not isinstance(provenance, dict):
                raise UserError(f"{path}: its provenance is no JSON object; convert again")
            return tensors, provenance
    raise UserError(
        f"{path}: weights are read from .pth, .pt, .bin, .npz and .safetensors, not {path.suffix!r}"
    )


def _without_prefix(tensors: Tensors) -> Tensors:
    """Names as the bare network has them; data-parallel training puts `module.` before each."""
    if all(name.startswith("module.") for name in tensors):
        return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors


def _best_layout(path: Path, entry: models.Spec, tensors: Tensors) -> tuple[Layout, dict[str, Origin]]:
    """The layout of which the file has the most tensors: what is missing is then told in the right names."""
    keras = path.suffix == ".h5"
    layouts = [layout for layout in LAYOUTS[entry.family] if layout.keras == keras]
    if not layouts:
        readable = [
            name
            for name, spec in models.REGISTRY.items()
            if any(layout.keras == keras for layout in LAYOUTS[spec.family])
        ]
        raise UserError(
            f"{path}: {entry.name} is not read from {path.suffix} files, which have other strides or layers; "
            f"these are: {', '.join(readable)}"
        )
    candidates = [(layout, origins_of(layout, entry.name)) for layout in layouts]
    return max(
        candidates, key=lambda pair: sum(key in tensors for origin in pair[1].values() for key in origin.keys)
    )


def _collect(
    path: Path, tensors: Tensors, origins: Mapping[str, Origin], ignored: str, what: str
) -> dict[str, np.ndarray]:
    """All arrays in our layout, or one error that names every tensor that does not fit."""
    wanted = {
        key: shape
        for origin in origins.values()
        for key, shape in zip(origin.keys, origin.shapes, strict=True)
    }
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
    if problems:
        raise UserError(f"{path} does not hold {what}: {'; '.join(problems)}")

    read = functools.cache(lambda key: tensors[key].read())
    arrays = {}
    for name, origin in origins.items():
        arrays[name] = np.ascontiguousarray(origin.convert(*map(read, origin.keys)), np.float32)
    broken = [name for name, values in arrays.items() if not np.isfinite(values).all()]
    if broken:
        raise UserError(f"{path}: not finite: {', '.join(broken)}")
    if arrays[HEAD[0]].shape[1] != arrays[HEAD[1]].shape[0]:
        raise UserError(f"{path}: the head's kernel and bias disagree about the number of classes")
    return arrays


def _fits(shape: Shape, wanted: Shape) -> bool:
    return len(shape) == len(wanted) and all(w in (-1, s) for s, w in zip(shape, wanted, strict=True))


def _shape_text(shape: Shape) -> str:
    return "(" + ", ".join("classes" if size == -1 else str(size) for size in shape) + ")"
