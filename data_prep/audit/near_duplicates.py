"""Finds copies that identical pixels do not show: cropped, turned, mirrored, inverted, rescaled, retouched, re-encoded.

Two stages. Keypoints of every image are looked up among those of all others (`keypoint_index.py`): images of which
several agree on one affine map are candidates. Each candidate's map is then refined, and the pair is a copy if the fine
detail correlates where both show something (`alignment.py`).
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from data_prep.audit.alignment import align, thumbnail
from data_prep.audit.keypoint_index import Candidate, KeypointIndex, blocks
from data_prep.audit.keypoints import Keypoints, find_keypoints
from data_prep.audit.thumbnails import thumbnails_on_disk
from data_prep.components import Components
from data_prep.workers import available_cores

# A crop: (top, left, height, width) in units of the image that it is cut from.
Box = tuple[float, float, float, float]

# Smallest correlation of fine detail of a copy; docs/data_audit.md has the measurement.
ACCEPT = 0.86
# Images that are looked at together; bounds memory.
_BLOCK = 1024
# Candidates of an image that are aligned, those first of which most keypoints agree.
_ALIGNED = 3
# Candidates that are aligned together.
_AT_A_TIME = 256
# Of two images, the one is larger that shows this much more; of equals the later one is the copy.
_LARGER = 1.02


@dataclasses.dataclass(frozen=True)
class NearDuplicate:
    """A pair of images of which one is a copy of the other, or both show the same in part.

    The whole is mirrored first, then turned, then cut and scaled.

    Attributes:
        part: index of the image that is the whole copy or the crop.
        whole: index of the image that it was cut from.
        box: (top, left, height, width) of the crop in units of the sides of `whole`, mirrored first
            if `mirrored`; what encloses it where it is turned.
        mirrored: whether left and right are swapped.
        correlation: normalised cross-correlation of the fine detail after alignment, -1 to 1.
        rotation: degrees, -180 to 180, by which the part is turned clockwise; upside down is mirrored and 180.
        inverted: whether bright and dark are swapped.
    """

    part: int
    whole: int
    box: Box
    mirrored: bool
    correlation: float
    rotation: float = 0.0
    inverted: bool = False


def find_near_duplicates(
    images: Iterable[NDArray[np.floating]],
    count: int,
    *,
    same: Callable[[int, int], bool] = lambda a, b: False,
    accept: float = ACCEPT,
) -> list[NearDuplicate]:
    """Finds pairs of which one is a copy of the other, of a part of it, or of what both were cut from.

    Time grows with the number of images, and a little faster through the lookup; memory is about 12 KiB an image,
    and 16 KiB more on disk.

    Args:
        images: (height, width) each, any range; taken once, a block at a time.
        count: how many there are.
        same: pairs that are known to belong together and need not be looked at.
        accept: smallest fine correlation of a pair that counts as a copy.

    Returns:
        The pairs found, sorted by index. Pairs that are connected through others already are left out: the list
        joins every group of copies but does not hold all of its pairs.
    """

    def described() -> Iterator[list[Keypoints]]:
        for block in blocks(images, _BLOCK):
            keypoints, small = _described(block, pool)
            thumbnails.extend(small)
            yield keypoints

    with _threads() as pool, thumbnails_on_disk() as thumbnails:
        candidates = list(_candidates(described(), count, pool))

        def look(some: Sequence[Candidate]) -> Iterable[NearDuplicate | None]:
            return pool.map(lambda c: compare(c, thumbnails[c.query], thumbnails[c.known]), some)

        return choose(candidates, len(thumbnails), look, same=same, accept=accept)


def describe(image: NDArray[np.floating]) -> tuple[Keypoints, NDArray[np.uint8]]:
    """What the search needs of an image (height, width) in any range: 136 bytes a keypoint, and its thumbnail."""
    with opencv_alone():
        return find_keypoints(image), thumbnail(image)


def find_candidates(keypoints: Iterable[Keypoints], count: int) -> Iterator[Candidate]:
    """The pairs of images that are worth a look, of what `describe` gave of each; keeps about 12 KiB an image.

    Args:
        keypoints: of the images in their order; taken once, a block at a time.
        count: how many images there are.
    """
    with _threads() as pool:
        yield from _candidates(blocks(keypoints, _BLOCK), count, pool)


def _candidates(
    described: Iterable[list[Keypoints]], count: int, pool: ThreadPoolExecutor
) -> Iterator[Candidate]:
    """Each block is added to the index, and sought among what is there by then."""
    index, first = None, 0
    for keypoints in described:
        index = index or KeypointIndex(keypoints, count)
        index.add(keypoints)
        for found in index.candidates(keypoints, pool, first=first):
            yield from found[:_ALIGNED]
        first += len(keypoints)


@dataclasses.dataclass(frozen=True)
class Copy:
    """An image of one set that is a copy of one of another set, in the sense of NearDuplicate.

    Attributes:
        query, known: their numbers, each within its own set.
        correlation: of the fine detail after alignment, -1 to 1.
    """

    query: int
    known: int
    correlation: float


def find_copies(
    queries: Iterable[NDArray[np.floating]],
    known: Iterable[NDArray[np.floating]],
    count: int,
    *,
    accept: float = ACCEPT,
) -> list[Copy]:
    """Finds which images of one set are copies of images of another; within a set nothing is sought.

    Args:
        queries: (height, width) each, any range; taken once, a block at a time.
        known: likewise.
        count: how many there are in `known`.
        accept: smallest fine correlation of a copy.

    Returns:
        For each query that is a copy the image it is most alike, in the order of the queries.
    """
    index: KeypointIndex | None = None
    copies: list[Copy] = []
    with _threads() as pool, thumbnails_on_disk() as thumbnails:
        for block in blocks(known, _BLOCK):
            keypoints, small = _described(block, pool)
            index = index or KeypointIndex(keypoints, count)
            index.add(keypoints)
            thumbnails.extend(small)
        if index is None:
            return []
        start = 0
        for block in blocks(queries, _BLOCK):
            keypoints, small = _described(block, pool)
            for query, found in enumerate(index.candidates(keypoints, pool)):
                pairs = [compare(c, small[query], thumbnails[c.known]) for c in found[:_ALIGNED]]
                alike = [
                    (p.correlation, c.known) for p, c in zip(pairs, found, strict=False) if p is not None
                ]
                if alike and max(alike)[0] >= accept:
                    copies.append(Copy(start + query, max(alike)[1], max(alike)[0]))
            start += len(block)
    return copies


@contextlib.contextmanager
def opencv_alone() -> Iterator[None]:
    """OpenCV works in the caller's thread; how it shares work among its own decides the order of what it finds."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


@contextlib.contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    """A thread a core, in each of which OpenCV, faiss and BLAS work by themselves."""
    with opencv_alone(), threadpool_limits(1), ThreadPoolExecutor(available_cores()) as pool:
        yield pool


def _described(
    images: Sequence[NDArray[np.floating]], pool: ThreadPoolExecutor
) -> tuple[list[Keypoints], list[NDArray[np.uint8]]]:
    return list(pool.map(find_keypoints, images)), list(pool.map(thumbnail, images))


def choose(
    candidates: Sequence[Candidate],
    count: int,
    look: Callable[[Sequence[Candidate]], Iterable[NearDuplicate | None]],
    *,
    same: Callable[[int, int], bool],
    accept: float = ACCEPT,
) -> list[NearDuplicate]:
    """The candidates that are copies; what others connect already is not looked at.

    Args:
        candidates: in any order.
        count: how many images there are.
        look: some of them -> what `compare` gives of each.
        same: as in `find_near_duplicates`.
        accept: likewise.
    """
    joined = Components(count)

    def open_still(candidate: Candidate) -> bool:
        query, known = candidate.query, candidate.known
        return joined.find(query) != joined.find(known) and not same(query, known)

    found = []
    ordered = sorted(candidates, key=lambda c: (-c.agree, c.query, c.known))
    # Many at a time, for the threads; the result is that of one after the other.
    for block in blocks(ordered, _AT_A_TIME):
        looked_at = [c for c in block if open_still(c)]
        for candidate, pair in zip(looked_at, look(looked_at), strict=True):
            if pair is not None and pair.correlation >= accept and open_still(candidate):
                found.append(pair)
                joined.join(candidate.query, candidate.known)
    return sorted(found, key=lambda pair: (pair.part, pair.whole))


def compare(candidate: Candidate, query: NDArray[np.uint8], known: NDArray[np.uint8]) -> NearDuplicate | None:
    """The pair of thumbnails after alignment, the one that shows less as the part, or None if it cannot be aligned."""
    part, whole, matrix = candidate.query, candidate.known, candidate.matrix
    larger = abs(float(np.linalg.det(matrix[:, :2])))
    if larger > _LARGER or (larger > 1 / _LARGER and part < whole):
        part, whole, query, known = whole, part, known, query
        matrix = cv2.invertAffineTransform(matrix)
    aligned = align(query, known, matrix)
    if aligned is None:
        return None
    box, mirrored, rotation = _described_map(aligned.matrix)
    return NearDuplicate(part, whole, box, mirrored, aligned.correlation, rotation, aligned.inverted)


def _described_map(matrix: NDArray[np.float64]) -> tuple[Box, bool, float]:
    """(box, mirrored, rotation) of NearDuplicate of a map (2, 3) from the part to the whole."""
    mirrored = bool(np.linalg.det(matrix[:, :2]) < 0)
    if mirrored:
        matrix = np.array([[-1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]) @ np.vstack([matrix, [0.0, 0.0, 1.0]])
    corners = matrix @ np.array([[0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    (left, top), (right, bottom) = corners.min(1), corners.max(1)
    box = (float(top), float(left), float(bottom - top), float(right - left))
    # The rotation nearest to the map; y points down, so that it is clockwise, and the map undoes it.
    angle = -math.degrees(math.atan2(matrix[1, 0] - matrix[0, 1], matrix[0, 0] + matrix[1, 1]))
    return box, mirrored, angle
