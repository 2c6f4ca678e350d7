"""What a denoiser learns from: phantoms without noise, radiographs that were reduced, or noisy ones as they are."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from data_prep.decode import DecodeError, decode, read_bytes
from data_prep.denoise.noise import estimate_sigma
from data_prep.phantom import CLASS_NAMES, PhantomConfig, generate_image
from data_prep.preprocess import PreprocessSpec, preprocess_file
from osteojax.errors import UserError
from osteojax.progress import progress

S = TypeVar("S")
T = TypeVar("T")


def clean_phantoms(count: int, sizes: Sequence[int], seed: int) -> list[np.ndarray]:
    """Phantoms without noise, float32 (size, size) in [0, 1], of all classes in turn, and of all sizes."""

    def film(patient: int) -> np.ndarray:
        turn, index = divmod(patient, len(CLASS_NAMES))
        size = sizes[turn % len(sizes)]
        config = PhantomConfig(image_size=(size, size), seed=seed)
        return generate_image(CLASS_NAMES[index], patient=patient, config=config).clean

    return _each("phantoms", range(count), film)


def reduced_radiographs(folder: Path, count: int, sizes: Sequence[int]) -> list[np.ndarray]:
    """Radiographs that were resized, float32 (size, size) in [0, 1]: a large film loses most of its noise by that.

    All sizes come in turn.

    Raises:
        UserError: there is no file, or one is no readable radiograph.
    """
    turn = itertools.cycle(PreprocessSpec(image_size=size) for size in sizes)
    return _each_file(folder, count, lambda path: preprocess_file(path, next(turn))[..., 0])


def noisy_radiographs(folder: Path, count: int) -> list[tuple[np.ndarray, float]]:
    """Radiographs at their own resolution, float32, their range as [0, 1], each with the sigma that is estimated.

    Raises:
        UserError: as of `reduced_radiographs`.
    """

    def read(path: Path) -> tuple[np.ndarray, float]:
        try:
            radiograph = decode(read_bytes(path))
        except DecodeError as error:
            raise UserError(f"{path}: {error}") from None
        pixels = radiograph.pixels.astype(np.float32) / np.float32(radiograph.full_range)
        return pixels, estimate_sigma(pixels).sigma

    return _each_file(folder, count, read)


def _each_file(folder: Path, count: int, read: Callable[[Path], T]) -> list[T]:
    if not folder.is_dir():
        raise UserError(f"data.source={folder} is no folder; name one of radiographs, or phantom")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return _each("radiographs", files[:count], read)


def _each(title: str, items: Sequence[S], function: Callable[[S], T]) -> list[T]:
    found = []
    with progress(title, len(items)) as advance:
        for item in items:
            found.append(function(item))
            advance()
    return found
