"""A split held in this host's memory: decoded once, and then read by the row."""

import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil

from osteojax.data.dataset import Example, Examples
from osteojax.data.pixels import pack, unpack

log = logging.getLogger(__name__)

# Of the memory that is free: the rest is the training's, and of other processes of this host.
SHARE = 0.25
_AT_ONCE = 64


class InMemory(Examples):
    """Examples as two arrays.

    Args:
        images: (N, ...) in any dtype; uint16 for pixels that are packed.
        labels: (N,) int32.
        views: stored forms of each example; see `Examples`.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, views: int = 1) -> None:
        self.images, self._labels, self.views = images, labels, views

    def __len__(self) -> int:
        return len(self._labels)

    def labels(self) -> np.ndarray:
        """See `Examples`."""
        return self._labels

    def element(self) -> tuple[tuple[int, ...], np.dtype]:
        """See `Examples`."""
        return self.images.shape[1:], self.images.dtype

    def read(self, indices: Sequence[int], view: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """See `Examples`."""
        rows = np.asarray(indices, np.int64)
        return self.images[rows + view * len(self)], self._labels[rows]

    def __getitems__(self, indices: Sequence[int]) -> list[Example]:
        """Images and labels, as they were before they were packed."""
        images, labels = self.read(indices)
        return [
            {"image": np.asarray(unpack(image)), "label": label}
            for image, label in zip(images, labels, strict=True)
        ]


def bytes_of(source: Examples) -> int:
    """What a split's inputs take as they are; pixels that can be packed take half of it."""
    shape, dtype = source.element()
    return len(source) * source.views * int(np.prod(shape)) * dtype.itemsize


def fits(sources: Iterable[Examples]) -> bool:
    """Whether a quarter of the memory that is free here holds all of them."""
    return sum(map(bytes_of, sources)) <= SHARE * psutil.virtual_memory().available


def hold(source: Examples, *, pixels: bool, threads: int = 1) -> InMemory:
    """Reads a split once, and keeps it.

    Args:
        source: whatever its size; see `fits`.
        pixels: pack them where that loses nothing.
        threads: that decode.

    Raises:
        UserError: the split is damaged.
    """
    shape, dtype = source.element()
    packed = pixels
    images = np.empty((len(source) * source.views, *shape), np.uint16 if packed else dtype)
    labels = np.empty(len(source), np.int32)
    parts = [
        (view, range(first, min(first + _AT_ONCE, len(source))))
        for view in range(source.views)
        for first in range(0, len(source), _AT_ONCE)
    ]
    with ThreadPoolExecutor(max(1, threads)) as pool:
        read = pool.map(lambda part: source.read(part[1], part[0]), parts)
        for (view, rows), (found, label) in zip(parts, read, strict=True):
            values = pack(found) if packed else found
            if values is None:  # finer than 15 bits: then as they are
                log.info("the pixels are finer than 2**-15 and are held as float32")
                packed, values, images = False, found, np.asarray(unpack(images))
            images[view * len(source) + rows[0] : view * len(source) + rows[-1] + 1] = values
            labels[rows[0] : rows[-1] + 1] = label
    return InMemory(images, labels, source.views)
