"""Near duplicates: copies are found, other radiographs of the same kind are not."""

import io
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import cv2
import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import gaussian_filter, rotate

from data_prep.audit import alignment, keypoint_index, keypoints, near_duplicates
from data_prep.audit.keypoint_index import KeypointIndex
from data_prep.audit.keypoints import Keypoints, find_keypoints
from data_prep.audit.near_duplicates import Copy, NearDuplicate, find_copies, find_near_duplicates
from data_prep.audit.thumbnails import thumbnails_on_disk
from data_prep.decode import decode
from data_prep.image_task import content_hash
from data_prep.phantom import CLASS_NAMES, PhantomConfig, generate_image

CONFIG = PhantomConfig(image_size=(224, 224), seed=5)


@pytest.fixture(scope="module")
def knees():
    """Twelve patients: one anatomy template and one display, the hardest thing to tell apart."""
    return [
        255 * generate_image(CLASS_NAMES[p % 3], patient=p, config=CONFIG).noisy.astype(np.float64)
        for p in range(12)
    ]


def _jpeg(image, quality):
    stream = io.BytesIO()
    Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream)).astype(np.float64)


def _resized(image, size):
    return np.asarray(Image.fromarray(image.astype(np.float32)).resize(size, Image.Resampling.BICUBIC))


def _labelled(image):
    marked = image.copy()
    marked[6:30, 10:90] = 255
    marked[190:210, 120:200] = 0
    return marked


COPIES = {
    "re-encoded": lambda image: _jpeg(image, 60),
    "mirrored": lambda image: image[:, ::-1],
    "upside down": lambda image: image[::-1],
    "rescaled and squashed": lambda image: _resized(image, (300, 140)),
    "brighter, gamma": lambda image: 255 * (np.clip(image, 0, 255) / 255) ** 0.7,
    "more contrast, clipped": lambda image: np.clip((image - 110) * 1.5 + 110, 0, 255),
    "inverted": lambda image: 255 - image,
    "blurred": lambda image: gaussian_filter(image, 1.5),
    "turned by a quarter": np.rot90,
    "turned by half": lambda image: np.rot90(image, 2),
    "turned by 4 degrees": lambda image: rotate(image, 4, reshape=False, order=1),
    "labels stuck on": _labelled,
    "white border": lambda image: np.pad(image, ((20, 10), (8, 30)), constant_values=255),
    "cropped by a tenth": lambda image: image[10:212, 14:216],
    "cropped to six tenths": lambda image: image[50:184, 50:184],
    "left half": lambda image: image[:, :112],
    "cropped, mirrored, squashed, re-encoded": lambda image: _jpeg(
        _resized(image[20:205, 8:200][:, ::-1], (224, 224)), 70
    ),
}


def _found(images, **settings):
    return find_near_duplicates(iter(images), len(images), **settings)


@pytest.fixture(scope="module")
def found_again(knees):
    return find_copies((copy(knees[3]) for copy in COPIES.values()), iter(knees), len(knees))


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_of_each_kind_is_found(found_again, kind):
    number = list(COPIES).index(kind)
    (copy,) = [copy for copy in found_again if copy.query == number]
    assert copy.known == 3 and near_duplicates.ACCEPT <= copy.correlation <= 1


def test_knees_of_others_are_no_copies(knees):
    assert _found(knees) == []
    assert find_copies(iter(knees[:4]), iter(knees[4:8]), 4) == []


def test_the_likeliest_of_several_copies_is_told(knees):
    worse = _labelled(gaussian_filter(knees[1], 2.0))
    assert [(c.query, c.known) for c in find_copies([knees[0], knees[1]], [worse, knees[1]], 2)] == [(1, 1)]
    assert find_copies([], knees[:2], 2) == find_copies(knees[:2], [], 0) == []


def test_the_crop_is_located(knees):
    (pair,) = _found([*knees, knees[7][22:201, 40:219]])
    assert (pair.part, pair.whole, pair.mirrored, pair.inverted) == (12, 7, False, False)
    # Half a pixel of the 128 that are compared.
    np.testing.assert_allclose(pair.box, (22 / 224, 40 / 224, 179 / 224, 179 / 224), atol=0.5 / 128)
    assert abs(pair.rotation) < 0.5


def test_what_comes_first_does_not_matter(knees):
    (pair,) = _found([knees[7][22:201, 40:219], *knees])
    assert (pair.part, pair.whole) == (0, 8)
    np.testing.assert_allclose(pair.box, (22 / 224, 40 / 224, 179 / 224, 179 / 224), atol=0.5 / 128)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda image: np.rot90(image, -1), (False, 90, False)),  # numpy turns counterclockwise
        (np.rot90, (False, -90, False)),
        (lambda image: 255 - image[:, ::-1], (True, 0, True)),
        (lambda image: image[::-1], (True, 180, False)),
        (lambda image: rotate(image[:, ::-1], 5, reshape=False, order=1), (True, -5, False)),
    ],
)
def test_the_change_is_told(knees, change, told):
    (pair,) = _found([*knees[:4], change(knees[2])])
    assert (pair.mirrored, pair.inverted) == (told[0], told[2])
    assert abs((pair.rotation - told[1] + 180) % 360 - 180) < 0.5


@given(
    st.booleans(),
    st.floats(-179, 179),
    st.floats(0.4, 1.2),
    st.tuples(st.floats(0, 0.5), st.floats(0, 0.5)),
)
def test_a_map_is_told_as_it_was_made(mirrored, degrees, scale, corner):
    """From the definition: the whole mirrored, then turned clockwise, then cut and scaled."""
    angle = np.radians(degrees)
    # Clockwise with y downwards; of column vectors x, y.
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = scale * turn.T
    matrix = np.column_stack([linear, corner])
    corners = np.array([linear @ c + corner for c in ((0, 0), (1, 0), (0, 1), (1, 1))])
    if mirrored:
        matrix[0] = [0, 0, 1] - matrix[0]
    box, flipped, rotation = near_duplicates._described_map(matrix)
    assert flipped == mirrored
    assert abs((rotation - degrees + 180) % 360 - 180) < 1e-6
    (left, top), (right, bottom) = corners.min(0), corners.max(0)
    np.testing.assert_allclose(box, (top, left, bottom - top, right - left), atol=1e-9)


def test_one_knee_of_a_radiograph_of_both(knees):
    both = np.hstack([knees[1], knees[2]])
    (pair,) = _found([both, *knees[3:], knees[2]])
    assert (pair.part, pair.whole) == (10, 0)
    np.testing.assert_allclose(pair.box, (0, 0.5, 1, 0.5), atol=0.01)


def test_two_crops_of_one_knee(knees):
    (pair,) = _found([*knees[:5], knees[9][:180, :190], knees[9][40:, 30:]])
    assert {pair.part, pair.whole} == {5, 6}


def _limb(knee):
    """A thin limb on a ground that is black and flat."""
    image = np.full((224, 224), 3.0)
    image[:, 80:150] = np.maximum(_resized(knee, (70, 224)), 3)
    return image


def test_an_equalised_limb_is_a_copy(knees):
    """The curve is so steep at the skin that local contrast does not even it out."""
    for knee in (knees[1], knees[5]):
        limb = _limb(knee)
        shares = np.cumsum(np.bincount(limb.astype(np.uint8).ravel(), minlength=256)) / limb.size
        (copy,) = find_copies([255 * shares[limb.astype(np.uint8)]], [limb], 1)
        assert copy.correlation > near_duplicates.ACCEPT


def _straight_limb(knee):
    """Nothing but edges along the limb is left of most that it shows."""
    limb = np.full((224, 224), 3.0)
    across = np.abs(np.linspace(-1, 1, 90))
    limb[:, 70:160] += np.clip(_resized(knee, (90, 224)), 0, 250) * np.clip((1 - across) * 4, 0, 1)
    return limb


def test_limbs_with_straight_edges_are_no_copies(knees):
    assert _found([_straight_limb(knee) for knee in knees]) == []


def test_a_copy_of_straight_edges_alone_is_found_where_hardly_anything_differs(knees, monkeypatch):
    monkeypatch.setattr(alignment, "_CROSSING", 1.0)  # no tile tells
    limb = _straight_limb(knees[2])
    (copy,) = find_copies([np.clip(limb * 0.9 + 10, 0, 255).round()], [limb], 1)
    assert copy.correlation > near_duplicates.ACCEPT
    assert _found([_straight_limb(knee) for knee in knees]) == []


def test_half_of_a_limb_is_looked_at_closer(knees, monkeypatch):
    limb = _limb(knees[3])
    (copy,) = find_copies([limb[:, 112:]], [limb], 1)
    assert copy.correlation > near_duplicates.ACCEPT
    closer = len(find_keypoints(limb[:, 112:]).points)
    monkeypatch.setattr(keypoints, "_FEW", 0)
    assert closer > 1.2 * len(find_keypoints(limb[:, 112:]).points)


def _loud_corner(side=160):
    """Blobs of about one size: faint ones everywhere, strong ones in a corner."""
    rng = np.random.default_rng(0)
    grey = gaussian_filter(rng.normal(size=(side, side)), 2.0)
    loud = np.ones((side, side))
    loud[: side // 4, : side // 4] = 20.0
    return (120 + 300 * grey * loud).clip(0, 255).astype(np.uint8)


def test_each_part_of_an_image_keeps_keypoints():
    picture = _loud_corner()
    found = cv2.SIFT_create(contrastThreshold=0.0, edgeThreshold=20).detect(picture)
    cell, count = np.float32([160 / 3, 160 / 3]), 45
    kept = keypoints._strongest(found, cell, count)
    response = np.array([point.response for point in found])
    of_cell = (cv2.KeyPoint.convert(found) // cell).astype(int) @ [3, 1]
    assert len(kept) == count < len(found) and (np.diff(kept) > 0).all()
    for number in range(9):
        there = np.flatnonzero(of_cell == number)
        ours = np.intersect1d(kept, there)
        assert len(ours) == min(5, len(there)) == 5
        assert response[ours].min() >= np.sort(response[there])[-5]
    # And of one cell the strongest, as OpenCV itself keeps them.
    strongest = keypoints._strongest(found, np.float32([160, 160]), count)
    assert set(strongest) == set(np.argsort(-response, kind="stable")[:count])


def test_keypoints_are_described_as_if_all_were(knees, monkeypatch):
    """OpenCV's description of all that it finds holds ours, to the bit."""
    monkeypatch.setattr(keypoints, "_FEW", 0)
    grey = np.rint(255 * (knees[0] - knees[0].min()) / np.ptp(knees[0])).astype(np.uint8)
    (height, width), *_ = (sides for sides, _, _ in keypoints._VIEWS)
    view = cv2.createCLAHE(4.0, (4, 4)).apply(cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA))
    found, values = cv2.SIFT_create(contrastThreshold=0.0, edgeThreshold=20).detectAndCompute(view, None)
    places = cv2.KeyPoint.convert(found) / np.array([width, height], np.float32)
    all_of_them = {(*place, *value) for place, value in zip(places.tolist(), values.tolist(), strict=True)}
    ours = find_keypoints(knees[0])
    n = min(keypoints._VIEWS[0][1], len(found))
    kept = {
        (*place, *value)
        for place, value in zip(ours.points[:n].tolist(), ours.sift[:n].tolist(), strict=True)
    }
    assert kept <= all_of_them


def test_thumbnails_lie_on_disk_and_threads_may_read_them():
    rng = np.random.default_rng(0)
    stored = rng.integers(0, 256, (50, alignment.THUMBNAIL, alignment.THUMBNAIL)).astype(np.uint8)
    with thumbnails_on_disk() as thumbnails, ThreadPoolExecutor(4) as pool:
        tracemalloc.start()
        thumbnails.extend(stored[:20])
        thumbnails.extend(stored[20:])
        assert tracemalloc.get_traced_memory()[0] < stored[0].nbytes
        tracemalloc.stop()
        assert len(thumbnails) == 50
        order = rng.permutation(np.repeat(np.arange(50), 20))
        for number, read in zip(order, pool.map(thumbnails.__getitem__, order), strict=True):
            np.testing.assert_array_equal(read, stored[number])


def test_a_keypoint_belongs_to_the_image_it_was_found_in():
    counts = np.array([3, 0, 1, 0, 0, 2])
    found = keypoint_index.owners(np.arange(6), np.cumsum([0, *counts]))
    np.testing.assert_array_equal(found, np.repeat(np.arange(6), counts))


def test_known_pairs_are_not_looked_at(knees):
    images = [knees[0], knees[1], knees[0][:, ::-1]]
    assert len(_found(images)) == 1
    assert _found(images, same=lambda a, b: {a, b} == {0, 2}) == []


def test_every_group_of_copies_is_joined(knees):
    found = _found([knees[0], *knees[4:8], knees[0][:, ::-1], knees[0][8:216, 8:216]])
    reached = {0}
    for _ in found:
        reached |= {i for pair in found for i in (pair.part, pair.whole) if {pair.part, pair.whole} & reached}
    assert reached == {0, 5, 6}


def test_the_same_whatever_the_threads_and_blocks(knees, monkeypatch):
    images = [*knees[:5], knees[0][:, ::-1], knees[3][10:212, 14:216]]
    found = _found(images)
    assert found == _found(images) and len(found) == 2
    monkeypatch.setattr(near_duplicates, "available_cores", lambda: 5)
    assert found == _found(images)
    monkeypatch.setattr(near_duplicates, "_BLOCK", 3)
    monkeypatch.setattr(near_duplicates, "_AT_A_TIME", 1)
    assert [(p.part, p.whole) for p in _found(images)] == [(p.part, p.whole) for p in found]


def test_many_images_are_looked_up_approximately(knees, monkeypatch):
    images = [*knees[:5], knees[0][:, ::-1], knees[3][10:212, 14:216]]
    found = _found(images)
    monkeypatch.setattr(keypoint_index, "_EXACT", 1000)
    approximate = _found(images)
    assert [(p.part, p.whole) for p in approximate] == [(p.part, p.whole) for p in found]
    assert approximate == _found(images)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_and_flat_images(n):
    assert _found(np.zeros((n, 128, 128), np.float32)) == []
    assert find_copies(np.zeros((n, 9, 5)), np.ones((n, 7, 3)), n) == []


def test_pairs_are_plain_values(knees):
    (pair,) = _found([knees[0], knees[0][:, ::-1]])
    assert isinstance(pair, NearDuplicate)
    assert all(type(v) is float for v in (*pair.box, pair.correlation, pair.rotation))
    assert type(pair.mirrored) is type(pair.inverted) is bool
    (copy,) = find_copies([knees[0]], [knees[0]], 1)
    assert isinstance(copy, Copy) and type(copy.correlation) is float


@pytest.mark.slow
def test_knees_that_were_cropped_twice_are_found(shared):
    """The knees of `test` again in `auto_test`, cut out by a detector."""
    once, again = (
        sorted((shared / "data/knee_oa_kl" / name).glob("*.png")) for name in ("test", "auto_test")
    )

    def read(paths):
        return (np.asarray(Image.open(path).convert("L"), np.float32) for path in paths)

    copies = find_copies(read(again), read(once), len(once))
    right = [c for c in copies if again[c.query].name[:5] == once[c.known].name[:5]]
    assert len(right) >= 0.95 * len(again)
    assert len(right) >= 0.99 * len(copies)


@pytest.mark.slow
def test_limbs_of_one_outline_are_no_copies(shared):
    """Long thin limbs, whose edges alone correlate up to 0.82: no two contents of this set are one knee."""
    images = {}
    for path in sorted(
        p for p in (shared / "data/knee").rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png")
    ):
        pixels = decode(path.read_bytes()).pixels
        images[content_hash(pixels)] = _resized(pixels, (224, 224))
    assert len(images) == 176
    assert find_near_duplicates(iter(images.values()), len(images)) == []


def test_the_cores_of_a_machine_do_not_change_what_the_index_learns():
    rng = np.random.default_rng(0)
    images = [
        Keypoints(rng.random((420, 2), np.float32), rng.integers(0, 256, (420, 128), np.uint8))
        for _ in range(30)
    ]
    before, learned = faiss.omp_get_max_threads(), []
    for threads in (1, 3):
        faiss.omp_set_num_threads(threads)
        index = KeypointIndex(images, len(images))
        index.add(images)
        assert faiss.omp_get_max_threads() == threads
        learned.append(faiss.serialize_index(index._index).tobytes())
    faiss.omp_set_num_threads(before)
    assert learned[0] == learned[1]
