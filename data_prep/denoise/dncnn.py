"""DnCNN (`osteojax.models.dncnn`) as a denoiser that preparation can choose."""

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from data_prep.denoise.registry import denoiser
from data_prep.denoise.unit_noise import visible_noise
from osteojax.files import sha256_of

# Trained by `osteojax train-denoiser --config=configs/denoisers/dncnn.py`; dncnn_b.md is its card.
SHIPPED = Path(__file__).with_name("dncnn_b.safetensors")
# Sides of what is computed at once, without what is around it: at most, and in steps of, so that images of many sizes
# share a few compiled programs. Steps are whole squares of `DnCNN.downsampling`, so that tiles cut none.
_TILE, _STEP = 256, 32
# Sigma that a pixel is changed by at most: noise is hardly ever more, and what a network has seen too seldom, such as
# the lead letters of a film, it would otherwise take for it.
_MOST_CHANGE = 3.0


@dataclasses.dataclass(frozen=True)
class DnCNNSettings:
    """What can be set of DnCNN.

    Attributes:
        weights: a file that `osteojax train-denoiser` wrote; "" for the package's own, which are blind: for any sigma
            up to 55 grey levels.
        sha256: of the file; "" takes that of the file that is there. It stands in the preparation's record: whatever
            is prepared like it is denoised by the same weights, or not at all.
        device: the "cpu", in every worker process, or the "accelerator", in the main one; they agree to float
            tolerance.
    """

    weights: str = ""
    sha256: str = ""
    device: Literal["cpu", "accelerator"] = "cpu"

    def __post_init__(self) -> None:
        """Raises UserError where there is no such file."""
        if not self.sha256:
            object.__setattr__(self, "sha256", sha256_of(self.path))

    @property
    def path(self) -> Path:
        """Of the weights."""
        return Path(self.weights) if self.weights else SHIPPED


@denoiser("dncnn", settings=DnCNNSettings, in_parent=lambda settings: settings.device == "accelerator")
def dncnn(pixels: np.ndarray, sigma: float, settings: DnCNNSettings) -> np.ndarray:
    """Zhang, Zuo, Chen, Meng and Zhang, IEEE TIP 26(7), 2017.

    The network sees the range of the pixels as [0, 1], or at less contrast where the noise would otherwise be more than
    it was trained for. Below that it finds the noise itself: weights for one sigma take less noise for that much.
    """
    noise = visible_noise(pixels, sigma, "DnCNN")
    if noise is None:
        return pixels
    middle, span = noise
    network = _network(settings.path, settings.sha256, settings.device)
    scale = max(span, sigma / network.most_noise)

    def denoise(tile: np.ndarray) -> np.ndarray:
        return (network.denoise((tile - middle) / scale + 0.5) - 0.5) * scale + middle

    most = np.float32(_MOST_CHANGE * sigma)
    return pixels + np.clip(_tiled(pixels, denoise, around=network.reach) - pixels, -most, most)


@dataclasses.dataclass(frozen=True)
class _Network:
    """A network that is ready.

    Attributes:
        denoise: float32 (height, width) with grey levels in [0, 1] -> the same.
        reach: pixels around an image that its result depends on, each way.
        most_noise: highest sigma that it was trained for, in units of the range.
    """

    denoise: Callable[[np.ndarray], np.ndarray]
    reach: int
    most_noise: float


@functools.lru_cache(maxsize=2)
def _network(path: Path, sha256: str, device: str) -> _Network:
    import jax
    from flax import nnx

    from osteojax.weights.dncnn import GREY_LEVEL, read_dncnn

    place = jax.devices("cpu")[0] if device == "cpu" else jax.devices()[0]
    with jax.default_device(place):
        model, facts = read_dncnn(path, sha256)
    graph, state = nnx.split(model)
    run = jax.jit(lambda state, x: nnx.merge(graph, state)(x))

    def denoise(image: np.ndarray) -> np.ndarray:
        with jax.default_device(place):
            return np.asarray(run(state, image[None, ..., None]))[0, ..., 0]

    return _Network(denoise, model.reach, facts.sigma[1] * GREY_LEVEL)


def _tiled(pixels: np.ndarray, denoise: Callable[[np.ndarray], np.ndarray], around: int) -> np.ndarray:
    """What `denoise` makes of an image, tile by tile: the same as of the whole, to float tolerance.

    Args:
        pixels: float32 (height, width); its mirror image is what lies beyond the border.
        denoise: float32 (rows, columns) -> the same shape.
        around: pixels beside a tile that its result depends on.
    """
    sides = [_side(extent) for extent in pixels.shape]
    counts = [math.ceil(extent / side) for extent, side in zip(pixels.shape, sides, strict=True)]
    beyond = [
        (around, count * side - extent + around)
        for extent, side, count in zip(pixels.shape, sides, counts, strict=True)
    ]
    padded = np.pad(pixels, beyond, mode="symmetric")
    result = np.empty(pixels.shape, np.float32)
    for row in range(counts[0]):
        for column in range(counts[1]):
            top, left = row * sides[0], column * sides[1]
            tile = padded[top : top + sides[0] + 2 * around, left : left + sides[1] + 2 * around]
            place = result[top : top + sides[0], left : left + sides[1]]
            place[...] = denoise(tile)[around:-around, around:-around][: place.shape[0], : place.shape[1]]
    return result


def _side(extent: int) -> int:
    """Side of the equal tiles that cover so many pixels."""
    tiles = math.ceil(extent / _TILE)
    return math.ceil(extent / tiles / _STEP) * _STEP
