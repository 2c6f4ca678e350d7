"""Which of many images share keypoints: nearest neighbours of descriptors, and a map that brings them together."""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import faiss
import numpy as np
from numpy.typing import NDArray

from data_prep.audit.keypoints import DIMENSIONS, Keypoints

# Descriptors that are compared with all others, exactly; of more, approximately.
_EXACT = 8_000
# Images that are added together; bounds memory.
_ADDED = 64
# Neighbours of a keypoint, those within its own image among them.
_NEIGHBOURS = 12
# Images that are looked at for a map, the most and nearest neighbours first, and the fewest keypoints that must agree
# on one.
_LOOKED_AT = 10
_AGREE = 8
# How far apart keypoints may be that agree, in units of a side.
_TOLERANCE = 0.02
# Of a map: sides change by at most a factor of 3, against each other by 2.5, and keep their angle to 20 degrees.
_SCALES, _STRETCH, _SHEAR = (1 / 3, 3.0), 2.5, 0.35


@dataclasses.dataclass(frozen=True)
class Candidate:
    """Two images, keypoints of which agree on one affine map.

    Attributes:
        query, known: their numbers.
        matrix: float64 (2, 3), maps (x, y, 1) in units of the sides of `query` to x and y of `known`.
        agree: how many keypoints do.
    """

    query: int
    known: int
    matrix: NDArray[np.float64]
    agree: int


class KeypointIndex:
    """Descriptors of many images, 24 bytes each beside 4 bytes of place, and what is like them."""

    def __init__(self, first: Sequence[Keypoints], expected: int) -> None:
        """An index of nothing.

        Args:
            first: of the first images; what the index learns its quantiser from.
            expected: how many images there will be.
        """
        sample = np.concatenate([np.zeros((0, DIMENSIONS), np.float32), *(k.descriptors for k in first)])
        total = len(sample) * expected / max(len(first), 1)
        self._index: faiss.Index = faiss.IndexFlatL2(DIMENSIONS)
        if total > _EXACT and len(sample) > _EXACT / 2:
            lists = int(min(4 * total**0.5, len(sample) / 64, 8192))
            self._index = faiss.index_factory(DIMENSIONS, f"PCA64,IVF{lists},PQ32x4fs")
            with _one_thread():
                self._index.train(sample)
            faiss.extract_index_ivf(self._index).nprobe = 8
        self._points: list[NDArray[np.float16]] = []
        # The number of keypoints before each image, and of all.
        self._before = [0]

    def add(self, keypoints: Iterable[Keypoints]) -> None:
        """Adds images, numbered on from those that are there."""
        for some in blocks(keypoints, _ADDED):
            for image in some:
                self._points.append(image.points.astype(np.float16))
                self._before.append(self._before[-1] + len(image.points))
            descriptors = np.concatenate([image.descriptors for image in some])
            if len(descriptors):
                with _one_thread():
                    self._index.add(descriptors)

    def candidates(
        self, keypoints: Sequence[Keypoints], pool: ThreadPoolExecutor, first: int | None = None
    ) -> Iterator[list[Candidate]]:
        """For each of `keypoints` the images that share some with it, those first that share most.

        Args:
            keypoints: of the images sought.
            pool: threads to work in.
            first: where the images sought are of the index themselves, the number of the first of them.
        """
        self._points, before = [np.concatenate(self._points)], np.array(self._before)
        start, own = (0, False) if first is None else (first, True)
        return pool.map(lambda i: self._sharing(start + i, keypoints[i], before, own), range(len(keypoints)))

    def _sharing(
        self, number: int, image: Keypoints, before: NDArray[np.int64], own: bool
    ) -> list[Candidate]:
        """Candidates of one image; `own` where it is itself in the index. `before`: keypoints before each image."""
        if not len(image.points) or not self._index.ntotal:
            return []
        faiss.omp_set_num_threads(1)  # of this thread: the pool has one a core
        distances, nearest = self._index.search(image.descriptors, min(_NEIGHBOURS, self._index.ntotal))
        row, column = np.nonzero(nearest >= 0)
        hit = nearest[row, column]
        # What is hardly nearer than the last says little; for which images to look at it counts as little.
        weight = 1.0 - distances[row, column] / np.maximum(distances.max(axis=1)[row], np.float32(1e-9))
        owner = owners(hit, before)
        if own:
            row, hit, owner, weight = (v[owner != number] for v in (row, hit, owner, weight))
        # In each image a keypoint has one likeness, the nearest.
        _, likeness = np.unique(np.stack([row, owner]), axis=1, return_index=True)
        row, hit, owner, weight = (v[likeness] for v in (row, hit, owner, weight))
        numbers, which, votes = np.unique(owner, return_inverse=True, return_counts=True)
        numbers, weights = numbers[votes >= _AGREE], np.bincount(which, weight)[votes >= _AGREE]
        found = []
        for place in np.argsort(-weights, kind="stable")[:_LOOKED_AT]:
            mine = owner == numbers[place]
            theirs = self._points[0][hit[mine]].astype(np.float32)
            fitted = _fit(image.points[row[mine]], theirs)
            if fitted is not None:
                found.append(Candidate(number, int(numbers[place]), *fitted))
        return sorted(found, key=lambda candidate: (-candidate.agree, candidate.known))


def owners(keypoints: NDArray[np.int64], before: NDArray[np.int64]) -> NDArray[np.int64]:
    """The image of each keypoint, by their numbers; (m,) -> (m,).

    Args:
        before: (n + 1,), how many keypoints come before each of n images, and in all. Images may have none.
    """
    return np.searchsorted(before, keypoints, side="right") - 1


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """faiss in one thread: sums depend on how many there are, and the cores of a machine must change nothing."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)


def _fit(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> tuple[NDArray[np.float64], int] | None:
    """An affine map (2, 3) that most points (k, 2) agree on, and on how many; None where there is no credible one.

    RANSAC of OpenCV, whose draws are the same each time.
    """
    matrix, inliers = cv2.estimateAffine2D(
        ours, theirs, method=cv2.RANSAC, ransacReprojThreshold=_TOLERANCE, maxIters=2000, confidence=0.995
    )
    if matrix is None or not np.isfinite(matrix).all():
        return None
    # A keypoint that several views or orientations show is one.
    agree = len(np.unique(np.rint(ours[inliers[:, 0] > 0] / _TOLERANCE), axis=0))
    return (matrix, agree) if agree >= _AGREE and credible(matrix) else None


def credible(matrix: NDArray[np.float64]) -> bool:
    """Whether a map (2, 3) is one that people make: scaled, squashed, turned, mirrored, hardly sheared."""
    x, y = matrix[:, 0], matrix[:, 1]
    sides = np.linalg.norm(x), np.linalg.norm(y)
    low, high = _SCALES
    return bool(
        low < min(sides)
        and max(sides) < high
        and max(sides) < _STRETCH * min(sides)
        and abs(x @ y) < _SHEAR * sides[0] * sides[1]
    )


def blocks(items: Iterable, size: int) -> Iterator[list]:
    """Lists of `size` items, the last one shorter."""
    iterator = iter(items)
    while block := list(itertools.islice(iterator, size)):
        yield block
