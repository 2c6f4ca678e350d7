"""Writing in the picture: found, masked, and not seen where there is none."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_prep.burned_in import Box, find_text, without_text
from data_prep.phantom import PhantomConfig, generate_image

KNEE = Path(__file__).resolve().parents[3] / "shared/data/knee"
TEXT = "DOE^JANE 12.03.1947"


@pytest.fixture(scope="module")
def phantom() -> np.ndarray:
    return generate_image("healthy", config=PhantomConfig(image_size=(600, 520))).noisy.astype(np.float32)


def written(
    image, text=TEXT, *, height=14, at=(30, 60), tone="bright", ground=None, font=cv2.FONT_HERSHEY_SIMPLEX
):
    """The picture with a line of text, and where its letters are."""
    letters = np.zeros(image.shape, np.uint8)
    scale = cv2.getFontScaleFromHeight(font, height, 1)
    cv2.putText(letters, text, (at[0], at[1]), font, scale, 255, max(1, height // 10), cv2.LINE_AA)
    share = letters / np.float32(255)
    image = image.copy()
    if ground is not None:
        rows, columns = np.nonzero(letters)
        image[rows.min() - 4 : rows.max() + 5, columns.min() - 4 : columns.max() + 5] = ground
    value = image.max() if tone == "bright" else image.min()
    return (image * (1 - share) + value * share).astype(np.float32), letters > 127


def covered(boxes: list[Box], letters: np.ndarray) -> float:
    hit = np.zeros(letters.shape, bool)
    for box in boxes:
        hit[box.top : box.bottom, box.left : box.right] = True
    return float(hit[letters].mean())


@pytest.mark.parametrize("height", [9, 14, 24, 40])
@pytest.mark.parametrize(
    ("tone", "ground"), [("bright", None), ("bright", 0.0), ("dark", "high"), ("dark", None)]
)
def test_lines_of_letters_are_found(phantom, height, tone, ground):
    image, letters = written(
        phantom,
        TEXT[:10],
        height=height,
        at=(180, 300),
        tone=tone,
        ground=phantom.max() if ground == "high" else ground,
    )
    assert covered(find_text(image), letters) > 0.95


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_upright_lines_are_found(phantom, turns):
    image, letters = written(phantom, ground=0.0)
    image, letters = (np.ascontiguousarray(np.rot90(a, turns)) for a in (image, letters))
    assert covered(find_text(image), letters) > 0.95


@pytest.mark.parametrize("change", [lambda a: a * 257, lambda a: a / 1e4 - 3, lambda a: a.astype(np.float64)])
def test_the_scale_of_the_values_is_nothing(phantom, change):
    image, _ = written(phantom)
    assert find_text(change(image)) == find_text(image) != []


def test_large_pictures_are_reduced_and_boxes_are_not(phantom):
    image, letters = written(phantom, ground=0.0)
    large = cv2.resize(image, None, fx=5, fy=5)
    assert covered(find_text(large), cv2.resize(letters.astype(np.uint8), None, fx=5, fy=5) > 0) > 0.95
    assert all(150 < box.top < box.bottom < 400 for box in find_text(large))


def test_one_hot_pixel_hides_nothing(phantom):
    image, letters = written(phantom, ground=0.0)
    image[0, 0] = 1e6
    assert covered(find_text(image), letters) > 0.95


def test_side_markers_and_pictures_without_writing_are_passed_over(phantom):
    assert find_text(phantom) == []
    for text in ("L", "R", "RE"):
        assert find_text(written(phantom, text, height=24)[0]) == []


@given(
    st.integers(0, 2**32 - 1), st.integers(1, 90), st.integers(1, 90),
    st.sampled_from(["noise", "flat", "steps", "huge", "stripes"]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_whatever_the_picture_boxes_lie_in_it(seed, height, width, kind):
    rng = np.random.default_rng(seed)
    image = {
        "noise": rng.normal(0, 1, (height, width)),
        "flat": np.full((height, width), 7.0),
        "steps": rng.integers(0, 2, (height, width)),
        "huge": rng.normal(0, 1e30, (height, width)),
        "stripes": np.tile(np.arange(width) % 4 < 2, (height, 1)),
    }[kind]
    boxes = find_text(image)
    for box in boxes:
        assert 0 <= box.top < box.bottom <= height and 0 <= box.left < box.right <= width
    masked = without_text(image, boxes)
    assert masked.shape == image.shape and masked.dtype == image.dtype and np.isfinite(masked).all()


def test_noise_costs_no_time():
    """Ten thousands of regions that could be letters are no letters."""
    noise = np.kron(np.random.default_rng(0).integers(0, 2, (260, 260)), np.ones((7, 7))).astype(np.float32)
    find_text(noise)


def test_masks_are_filled_by_what_is_around_and_nothing_else_changes():
    bare = np.add.outer(np.linspace(40, 120, 200), np.linspace(0, 40, 400)).astype(np.float32)
    bare[0, :2] = 0, 255
    image, letters = written(bare)
    boxes = find_text(image)
    before = image.copy()
    masked = without_text(image, boxes)
    np.testing.assert_array_equal(image, before)
    inside = np.zeros(image.shape, bool)
    for box in boxes:
        inside[box.top : box.bottom, box.left : box.right] = True
    np.testing.assert_array_equal(masked[~inside], image[~inside])
    assert letters[inside].sum() > 0.95 * letters.sum()
    assert np.abs(masked[inside] - bare[inside]).max() < 25 and find_text(masked) == []


def test_a_picture_that_is_all_box_is_filled_with_its_median():
    image = np.arange(64.0).reshape(8, 8)
    np.testing.assert_array_equal(without_text(image, [Box(0, 0, 8, 8)]), np.full((8, 8), 31.5))


@pytest.mark.skipif(not KNEE.is_dir(), reason="no radiographs beside the repository")
def test_the_public_knees_that_name_patients_are_found_and_few_others():
    """N16 and OP90 have "PT ID" and a number written into them: seen by eye."""
    files = sorted(KNEE.rglob("*.jp*g"))
    chosen = [path for path in files if path.stem in ("N16", "OP90")] + files[::16]
    found = {path.stem for path in chosen if find_text(np.asarray(Image.open(path).convert("L")))}
    assert found == {"N16", "OP90"}
