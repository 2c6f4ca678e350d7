"""The segmenter's parameters as a safetensors file, float16, and back."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax import nnx

from data_prep.phantom.regions import REGIONS
from osteojax.errors import UserError
from osteojax.files import write_atomically
from osteojax.models.network import flat, unflat
from osteojax.models.unet import UNet

_LARGEST_BYTES = 2**24


def make_unet(seed: int = 0) -> UNet:
    """The U-Net of the regions with random parameters, which the seed determines."""
    return UNet(len(REGIONS), rngs=nnx.Rngs(seed))


def write_weights(path: Path, model: UNet, about: Mapping[str, str]) -> None:
    """Writes parameters and running statistics, with what is to be said about them."""
    tensors = {
        name: np.asarray(values, np.float16)
        for name, values in flat(nnx.state(model, (nnx.Param, nnx.BatchStat))).items()
    }
    # One entry: safetensors writes several in any order, and the file's SHA-256 is its name.
    write_atomically(path, safetensors.numpy.save(tensors, {"about": json.dumps(about, sort_keys=True)}))


def read_weights(path: Path, setting: str = "region.weights") -> tuple[UNet, str]:
    """The U-Net of a file, to infer with, and the file's SHA-256.

    Args:
        path: of a file that nobody vouches for.
        setting: that names it, for the message.

    Raises:
        UserError: the file cannot be read, or does not hold this network's tensors, all finite.
    """
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise UserError(f"{setting}={path} is no segmenter of ours: it is larger than 16 MiB")
        content = path.read_bytes()
        tensors = safetensors.numpy.load(content)
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise UserError(
            f"{setting}={path} cannot be read as safetensors ({' '.join(str(error).split())[:120]}); write it "
            "with osteojax train-segmenter"
        ) from None
    model = nnx.eval_shape(make_unet)
    state = nnx.state(model, (nnx.Param, nnx.BatchStat))
    wanted = flat(state)
    for name in sorted(wanted.keys() | tensors.keys()):
        want = wanted[name].shape if name in wanted else None
        have = tensors[name].shape if name in tensors else None
        if want != have:
            raise UserError(
                f"{setting}={path}: tensor {name!r} has the shape {have or 'of none'}, and the U-Net wants "
                f"{want or 'no such tensor'}; train one with osteojax train-segmenter"
            )
        if tensors[name].dtype.kind != "f" or not np.isfinite(tensors[name]).all():
            raise UserError(f"{setting}={path}: tensor {name!r} holds what is no finite number")
    values = {name: jnp.asarray(tensor, jnp.float32) for name, tensor in tensors.items()}
    nnx.update(model, unflat(state, values))
    model.eval()
    return model, hashlib.sha256(content).hexdigest()
