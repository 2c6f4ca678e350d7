"""Weights and images made from names alone, so that nothing large is committed.

NumPy only: the script that makes the goldens (under PyTorch) and the tests (without it) both import this.
"""

import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

SIZE = 64
BATCH = 4
SAMPLES = 96
ODD_SIZE = (75, 90)
"""Rows and columns that leave a remainder at every halving."""


def _rng(name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(name.encode()))


def images(height: int = SIZE, width: int = SIZE) -> np.ndarray:
    """(4, height, width, 3) float32 in [0, 1]."""
    return _rng("images").random((BATCH, height, width, 3), np.float32)


def noisy(height: int = 40, width: int = 36) -> np.ndarray:
    """(height, width) float32: grey levels in [0, 1] with white noise of sigma 25 / 255."""
    rows, columns = np.mgrid[:height, :width]
    clean = 0.5 + 0.2 * np.sin(rows / 5) + 0.2 * np.cos(columns / 7)
    return (clean + _rng("noisy").normal(0, 25 / 255, clean.shape)).astype(np.float32)


def dncnn_shapes(depth: int = 17, width: int = 64) -> dict[str, tuple[int, ...]]:
    """Of a DnCNN as KAIR publishes it, batch norm merged: the even places of `model` are convolutions."""
    channels = [1, *[width] * (depth - 1), 1]
    shapes: dict[str, tuple[int, ...]] = {}
    for index in range(depth):
        shapes[f"model.{2 * index}.weight"] = (channels[index + 1], channels[index], 3, 3)
        shapes[f"model.{2 * index}.bias"] = (channels[index + 1],)
    return shapes


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A float32 tensor by its PyTorch name: He-scaled kernels, batch-norm statistics far from neutral."""
    rng = _rng(f"{name}{shape}")
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "running_var":
        return rng.uniform(0.5, 2, shape).astype(np.float32)
    if leaf in ("pos_embed", "cls_token", "relative_position_bias_table"):
        return rng.normal(0, 0.5, shape).astype(np.float32)
    if leaf == "layer_scale":
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if leaf in ("running_mean", "bias"):
        return rng.normal(0, 0.2, shape).astype(np.float32)
    if len(shape) == 1:
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    fan_in = int(np.prod(shape[1:]))
    return rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / fan_in))


def state_dict(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """All tensors of a network from their names and shapes."""
    return {name: tensor(name, shape) for name, shape in shapes.items()}


def keras_tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The same for a tensor by its Keras name ("conv1_conv/kernel")."""
    rng = _rng(f"{name}{shape}")
    leaf = name.rsplit("/", 1)[1]
    if leaf == "kernel":
        return rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / np.prod(shape[:-1])))
    low, high = {"moving_variance": (0.5, 2), "gamma": (0.5, 1.5)}.get(leaf, (-0.3, 0.3))
    return rng.uniform(low, high, shape).astype(np.float32)


def summary(activations: np.ndarray) -> np.ndarray:
    """Of NHWC (or any) activations: mean, mean magnitude, largest magnitude and 96 values at fixed places."""
    flat = np.asarray(activations, np.float32).reshape(-1)
    places = _rng(f"places{flat.size}").integers(0, flat.size, SAMPLES)
    moments = [flat.mean(dtype=np.float64), np.abs(flat).mean(dtype=np.float64), np.abs(flat).max()]
    return np.concatenate([np.asarray(moments, np.float32), flat[places]])


def write(path: Path, goldens: Mapping[str, np.ndarray]) -> None:
    """One network's goldens as a file, which it tells."""
    np.savez_compressed(path, **goldens)
    print(f"{path.name}: {len(goldens)} arrays, {path.stat().st_size / 1024:.0f} KB")
