"""Weights of a DnCNN in inference mode: the project's own safetensors file, and KAIR's published ones.

A file is untrusted: what it says of itself is checked before a tensor is read, and each tensor before it is used.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import save

from osteojax.config import Bound, NotNegative, Positive, read
from osteojax.errors import UserError
from osteojax.files import sha256_of, write_atomically
from osteojax.models.dncnn import DnCNN
from osteojax.weights.formats import registry as formats
from osteojax.weights.formats.tensors import Tensors

GREY_LEVEL = 1 / 255
"""One of 8 bits, where an image's range is 1."""

_ARCHITECTURE = "dncnn"


@dataclasses.dataclass(frozen=True)
class DnCNNFacts:
    """What a file says of its weights.

    Attributes:
        sigma: lowest and highest standard deviation of the noise that they were trained for, in grey levels of a range
            of 255; equal for one sigma.
        training: config of the training; empty where it is not known.
    """

    sigma: tuple[float, float]
    training: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class _Described:
    """The metadata of our file."""

    architecture: str
    depth: Annotated[int, Bound(low=2, high=64)]
    width: Annotated[int, Bound(low=1, high=512)]
    sigma: tuple[Annotated[float, NotNegative], Annotated[float, Positive]]
    training: Mapping[str, Any]
    # Releases before did not write it: theirs is 1.
    downsampling: Annotated[int, Bound(low=1, high=8)] = 1


def write_dncnn(path: Path, model: DnCNN, facts: DnCNNFacts) -> None:
    """Writes a network without batch norm as a safetensors file: `layers.3.kernel` (HWIO), `layers.3.bias`, float32."""
    described = _Described(
        _ARCHITECTURE, model.depth, model.width, facts.sigma, facts.training, model.downsampling
    )
    text = json.dumps(dataclasses.asdict(described), sort_keys=True)
    tensors = {
        f"layers.{index}.{name}": np.asarray(value, np.float32)
        for index, layer in enumerate(model.layers)
        for name, value in (("kernel", layer.kernel[...]), ("bias", layer.bias[...]))
    }
    write_atomically(path, save(tensors, {"format": "flax", "osteojax": text}))


def read_dncnn(path: Path, sha256: str) -> tuple[DnCNN, DnCNNFacts]:
    """The network of a file that `write_dncnn` wrote, and what it says of itself.

    Args:
        path: of the file.
        sha256: that it must have, in hex.

    Raises:
        UserError: there is no such file, it is another one, is damaged, or is no DnCNN.
    """
    found = sha256_of(path)
    if found != sha256:
        raise UserError(
            f"{path} has the SHA-256 {found[:16]}..., and {sha256[:16]}... was prepared with; give the file of then"
        )
    _, tensors, metadata = formats.read(path)
    try:
        fields = json.loads(metadata.get("osteojax", ""))
    except ValueError:
        fields = None
    if not isinstance(fields, dict) or fields.get("architecture") != _ARCHITECTURE:
        raise UserError(
            f"{path} does not say that it is a DnCNN; give what osteojax train-denoiser has written"
        )
    described = read(_Described, fields, str(path))
    if described.sigma[0] > described.sigma[1]:
        raise UserError(
            f"{path} is for a sigma from {described.sigma[0]:g} to {described.sigma[1]:g}, which is none"
        )
    model = DnCNN(
        described.depth,
        described.width,
        batch_norm=False,
        downsampling=described.downsampling,
        rngs=nnx.Rngs(0),
    )
    names = {
        f"layers.{index}.{name}": (index, name)
        for index in range(described.depth)
        for name in ("kernel", "bias")
    }
    _fill(path, model, tensors, names)
    return model, DnCNNFacts(described.sigma, described.training)


def read_kair_dncnn(path: Path) -> DnCNN:
    """The network of a file that KAIR published, batch norm merged (github.com/cszn/KAIR, dncnn_25.pth and the like).

    Its convolutions are called `model.0`, `model.2` and so on, with a ReLU between them that has no weights.

    Raises:
        UserError: it is damaged, or has other tensors.
    """
    _, tensors, _ = formats.read(path)
    depth, width = len(tensors) // 2, tensors["model.0.bias"].shape[0] if "model.0.bias" in tensors else 0
    if not (2 <= depth <= 64 and 1 <= width <= 512):
        raise UserError(
            f"{path} is no DnCNN of KAIR's; those have the tensors model.0.weight, model.0.bias, ..."
        )
    model = DnCNN(depth, width, batch_norm=False, rngs=nnx.Rngs(0))
    names = {
        f"model.{2 * index}.{theirs}": (index, ours)
        for index in range(depth)
        for theirs, ours in (("weight", "kernel"), ("bias", "bias"))
    }
    _fill(path, model, tensors, names, layout=(2, 3, 1, 0))
    return model


def _fill(
    path: Path,
    model: DnCNN,
    tensors: Tensors,
    names: Mapping[str, tuple[int, str]],
    layout: tuple[int, ...] = (0, 1, 2, 3),
) -> None:
    """Puts the tensors into the model: `names` has their places, `layout` the axes of a kernel in the file."""
    odd = sorted(names.keys() ^ tensors.keys())
    if odd:
        raise UserError(
            f"{path} has other tensors than a DnCNN of {model.depth} layers: {odd[0]} is "
            f"{'missing' if odd[0] in names else 'strange'}"
        )
    for theirs, (index, ours) in names.items():
        place, tensor = getattr(model.layers[index], ours), tensors[theirs]
        shape = tuple(place.shape[axis] for axis in np.argsort(layout)) if ours == "kernel" else place.shape
        if tensor.shape != shape or not tensor.is_float:
            raise UserError(
                f"{path}: {theirs} is {tensor.dtype} {tensor.shape}, and a float tensor {shape} is needed"
            )
        values = tensor.read()
        if not np.isfinite(values).all():
            raise UserError(f"{path}: {theirs} holds NaN or infinity; train it anew")
        place[...] = jnp.asarray(values.transpose(layout) if ours == "kernel" else values)
