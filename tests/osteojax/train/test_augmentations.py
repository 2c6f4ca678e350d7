"""Each augmentation against scipy, scikit-image, its formula or its statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.exposure import equalize_adapthist
from skimage.transform import AffineTransform
from skimage.transform import warp as skimage_warp

from osteojax.errors import UserError
from osteojax.train import augment, warp
from osteojax.train.augmentations.clahe import _clipped, equalised
from osteojax.train.augmentations.registry import AUGMENTATIONS

RNG = np.random.default_rng(0)
SMOOTH = ndimage.gaussian_filter(RNG.random((40, 32)), 2)
SMOOTH = ((SMOOTH - SMOOTH.min()) / np.ptp(SMOOTH)).astype(np.float32)[..., None]
GREY = jnp.full((64, 64, 1), 0.5)


def on(**keys):
    return augment.chain(keys)


def of(image, seed=0, rows=64, **keys):
    """The augmentation of a batch of copies of one image."""
    batch = jnp.broadcast_to(jnp.asarray(image), (rows, *image.shape))
    apply = jax.jit(lambda key, x: augment.apply(key, x, on(**keys)))
    return np.asarray(apply(jax.random.key(seed), batch))


def sampled(image, matrix, shift=(0, 0)):
    points = warp.linear(warp.still(*image.shape[:2]), jnp.asarray(matrix, jnp.float32))
    return np.asarray(
        warp.sample(jnp.asarray(image), points + jnp.asarray(shift, jnp.float32)[:, None, None])
    )


# --- one interpolation ---------------------------------------------------------------------------------------------


def test_points_that_are_still_give_the_image_itself():
    np.testing.assert_allclose(sampled(SMOOTH, np.eye(2)), SMOOTH, atol=1e-6)


def test_a_shift_is_scipys():
    expected = ndimage.shift(SMOOTH[..., 0], (-2.5, 3), order=1, mode="nearest")
    np.testing.assert_allclose(sampled(SMOOTH, np.eye(2), (2.5, -3))[..., 0], expected, atol=1e-5)


def test_an_affine_map_is_scikit_images():
    matrix = np.array([[1.1, 0.2], [-0.1, 0.9]])
    xy = matrix[::-1, ::-1]
    centre = (np.array(SMOOTH.shape[1::-1]) - 1) / 2
    whole = np.eye(3)
    whole[:2, :2], whole[:2, 2] = xy, centre - xy @ centre
    expected = skimage_warp(SMOOTH[..., 0], AffineTransform(whole), order=1, mode="edge")
    np.testing.assert_allclose(sampled(SMOOTH, matrix)[..., 0], expected, atol=1e-4)


def warped(name, image=SMOOTH, rows=32, **keys):
    """The points that one warp draws, for many keys."""
    member = AUGMENTATIONS.get(name)
    points = warp.still(*image.shape[:2])
    keys_of = lambda row: [jax.random.fold_in(jax.random.key(row), draw) for draw in member.draws]  # noqa: E731
    return points, [
        np.asarray(member.function(points, *keys_of(row), settings=member.settings(**keys)))
        for row in range(rows)
    ]


@pytest.mark.parametrize(
    "name, key, value", [("scale", "scale", 0.25), ("shear", "shear", 20.0), ("rigid", "rotate", 15.0)]
)
def test_scale_shear_and_rotation_are_linear_maps_of_their_range(name, key, value):
    points, drawn = warped(name, **{key: value})
    flat = np.asarray(points).reshape(2, -1)
    found = []
    for moved in drawn:
        matrix = moved.reshape(2, -1) @ np.linalg.pinv(flat)
        np.testing.assert_allclose(matrix @ flat, moved.reshape(2, -1), atol=1e-3)
        if name == "scale":
            assert matrix[0, 0] == pytest.approx(matrix[1, 1], rel=1e-5) and abs(matrix[0, 1]) < 1e-5
            found.append(np.log(matrix[0, 0]) / np.log(1.25))
        elif name == "shear":
            np.testing.assert_allclose(matrix, [[1, 0], [matrix[1, 0], 1]], atol=1e-5)
            found.append(np.rad2deg(np.arctan(matrix[1, 0])) / 20)
        else:
            np.testing.assert_allclose(matrix @ matrix.T, np.eye(2), atol=1e-4)
            found.append(np.rad2deg(np.arctan2(matrix[1, 0], matrix[0, 0])) / 15)
    assert -1 <= min(found) < -0.5 and 0.5 < max(found) <= 1


def test_a_shift_moves_all_points_alike_and_at_most_so_far():
    points, drawn = warped("rigid", shift=0.1)
    offsets = np.stack([(moved - points).reshape(2, -1) for moved in drawn])
    np.testing.assert_allclose(offsets, np.broadcast_to(offsets[..., :1], offsets.shape), atol=1e-4)
    assert 3 < np.abs(offsets[:, 0]).max() <= 4.001 and 2.4 < np.abs(offsets[:, 1]).max() <= 3.201


def test_the_elastic_field_is_smooth_and_of_its_amplitude():
    points, drawn = warped("elastic", rows=100, elastic=0.015)
    field = np.stack([moved - points for moved in drawn])
    assert field[:, 0].std() == pytest.approx(0.015 * 40, rel=0.3) and abs(field.mean()) < 0.2
    assert field[:, 1].std() == pytest.approx(0.015 * 32, rel=0.3)
    assert np.abs(np.diff(field, axis=-1)).max() < 1.0, "points must keep their order"


def test_all_warps_together_interpolate_once():
    keys = {"rotate": 10.0, "scale": 0.1, "shear": 5.0, "elastic": 0.01, "shift": 0.05}
    checker = (np.indices((32, 32)).sum(0) % 2).astype(np.float32)[..., None]
    together, alone = of(checker, rows=8, **keys), of(checker, rows=8, rotate=10.0)
    assert together.std() > 0.8 * alone.std(), "a second interpolation would grey it"
    jaxpr = str(
        jax.make_jaxpr(lambda k: augment.apply(k, jnp.zeros((1, 8, 8, 1)), on(**keys)))(jax.random.key(0))
    )
    one = str(
        jax.make_jaxpr(lambda k: augment.apply(k, jnp.zeros((1, 8, 8, 1)), on(rotate=10.0)))(
            jax.random.key(0)
        )
    )
    assert jaxpr.count("gather") == one.count("gather") > 0


# --- values --------------------------------------------------------------------------------------------------------


def test_brightness_adds_and_contrast_and_gain_multiply():
    narrow = 0.4 + 0.2 * SMOOTH
    bright = of(narrow, brightness=0.1) - narrow
    np.testing.assert_allclose(bright, bright[:, :1, :1] + 0 * bright, atol=1e-6)
    assert -0.1 <= bright.min() < -0.05 and 0.05 < bright.max() <= 0.1
    mean = narrow.mean()
    factor = (of(narrow, contrast=0.3) - mean)[:, narrow[..., 0] > 0.55] / (narrow - mean)[
        narrow[..., 0] > 0.55
    ]
    assert (
        np.ptp(factor, axis=(1, 2)).max() < 1e-3 and 0.7 <= factor.min() < 0.85 < 1.15 < factor.max() <= 1.3
    )
    gain = of(narrow, gain=0.2) / narrow
    assert np.ptp(gain, axis=(1, 2, 3)).max() < 1e-4 and 0.8 <= gain.min() < 0.9 < 1.1 < gain.max() <= 1.2


def test_gamma_is_one_exponent_an_image():
    image = 0.05 + 0.9 * SMOOTH
    exponent = np.log(of(image, gamma=0.5)) / np.log(image)
    assert np.ptp(exponent, axis=(1, 2, 3)).max() < 1e-3
    assert np.exp(-0.5) <= exponent.min() < 0.75 and 1.35 < exponent.max() <= np.exp(0.5)


def test_poisson_noise_has_the_variance_of_its_photons():
    """Its variance over the value is the same for a dark and a bright grey: sigma^2, of which sigma is drawn evenly."""
    dark = of(0.2 * GREY, rows=200, poisson=0.05)
    bright = of(1.2 * GREY, rows=200, poisson=0.05)
    ratio = (bright.var((1, 2, 3)) / 0.6) / (dark.var((1, 2, 3)) / 0.1)
    assert np.median(ratio) == pytest.approx(1, abs=0.05)
    sigma = np.sqrt(bright.var((1, 2, 3)) / 0.6)
    assert sigma.max() < 0.054 and sigma.mean() == pytest.approx(0.025, abs=0.004)
    np.testing.assert_allclose(bright.mean((1, 2, 3)), 0.6, atol=0.005)


def test_blur_is_a_gaussian_of_scipys():
    image = np.zeros((21, 21, 1), np.float32)
    image[10, 10] = 1
    found = of(image, blur=1.5)
    for spread in found[:, :, :, 0]:
        y = np.arange(21) - 10
        sigma = np.sqrt((spread.sum(1) * y**2).sum() / spread.sum())
        assert spread.sum() == pytest.approx(1, abs=1e-4) and sigma <= 1.5
        if sigma > 0.9:
            expected = ndimage.gaussian_filter(image[..., 0], sigma, mode="nearest", truncate=5)
            np.testing.assert_allclose(spread, expected, atol=5e-3)
    assert len({round(float(x.max()), 3) for x in found}) > 20
    np.testing.assert_allclose(of(np.ones((8, 8, 1), np.float32), blur=1.5), 1, atol=1e-5)


def test_clahe_is_near_scikit_images():
    """Which adds more pixels than it cut off, and the more so the smaller a tile is."""
    image = ndimage.gaussian_filter(RNG.random((224, 224)), 12)
    image = ((image - image.min()) / np.ptp(image)).astype(np.float32)
    expected = equalize_adapthist(image, kernel_size=(28, 28), clip_limit=0.01)
    found = np.asarray(equalised(jnp.asarray(image)))
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.99
    assert np.abs(found - expected).mean() < 0.025


def test_clahe_fills_up_like_a_vessel():
    histogram = np.array([[90.0, 8, 0, 2], [25, 25, 25, 25]], np.float32)
    np.testing.assert_allclose(
        _clipped(jnp.asarray(histogram), 40.0), [[40, 24.667, 16.667, 18.667], [25] * 4], atol=1e-2
    )
    np.testing.assert_allclose(_clipped(jnp.asarray(histogram), 40.0).sum(-1), 100, atol=1e-2)


def test_clahe_is_never_steeper_than_its_limit_and_keeps_the_order():
    narrow = jnp.asarray(np.clip(0.5 + 0.001 * RNG.normal(size=(160, 160)), 0, 1), jnp.float32)
    levels = len(np.unique(np.round(np.asarray(narrow) * 255)))
    assert np.ptp(np.asarray(equalised(narrow))) < (levels - 1) * 0.01 + 2e-3
    ramp = jnp.broadcast_to(jnp.linspace(0, 1, 64)[None], (64, 64))
    assert (np.diff(np.asarray(equalised(ramp)), axis=1) > -1e-5).all()


# --- what is seen --------------------------------------------------------------------------------------------------


def test_erasing_covers_one_rectangle_of_its_area_with_its_probability():
    found = of(jnp.full((40, 40, 1), 2.0), rows=400, erase=0.5)  # no noise is ever 2
    covered = found[..., 0] < 1.5
    share = covered.mean((1, 2))
    assert (share > 0).mean() == pytest.approx(0.5, abs=0.08)
    for one in covered[share > 0]:
        rows, columns = np.flatnonzero(one.any(1)), np.flatnonzero(one.any(0))
        assert one[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert np.ptp(rows) + 1 == len(rows) and np.ptp(columns) + 1 == len(columns)
    assert share[share > 0].min() > 0.01 and share.max() < 0.23
    assert share[share > 0].mean() == pytest.approx(0.11, abs=0.02)


def test_collimation_blackens_straight_edges_and_nothing_else():
    found = of(jnp.ones((40, 40, 1)), rows=200, collimate=0.2)[..., 0]
    for one in found:
        rows, columns = np.flatnonzero(one.any(1)), np.flatnonzero(one.any(0))
        assert (one == np.outer(one.any(1), one.any(0))).all()
        assert len(rows) >= 24 and len(columns) >= 24
    edges = [(found[:, :, 20] == 0)[:, :20].sum(1), (found[:, 20] == 0)[:, 20:].sum(1)]
    assert all(e.max() in (7, 8) and e.min() == 0 for e in edges)


def test_a_marker_is_an_l_or_an_r_near_the_edge_with_its_probability():
    found = of(jnp.zeros((50, 50, 1)), rows=400, marker=0.5)[..., 0]
    marked = found[found.any((1, 2))]
    assert len(marked) / 400 == pytest.approx(0.5, abs=0.08)
    assert {int(one.sum()) for one in marked} == {8, 12} and set(np.unique(marked)) == {0.0, 1.0}
    for one in marked:
        y, x = np.nonzero(one)
        assert min(y.min(), x.min(), 49 - y.max(), 49 - x.max()) <= 2


# --- choosing ------------------------------------------------------------------------------------------------------


def test_randaugment_gives_each_image_as_many_as_it_says():
    """Of augmentations that leave a mark of their own: what each image got can be counted."""
    image = np.full((20, 20, 1), 0.5, np.float32)
    keys = {"brightness": 0.2, "gain": 0.2, "gamma": 0.5, "rand_count": 1, "rand_magnitude": 0.0}
    found = of(image, rows=300, **keys)[:, 0, 0, 0]
    chain = on(**keys)
    assert [member.kind for member, _ in chain.members] == ["intensity"] * 3 and chain.choose == 1
    alone = {
        key: of(image, rows=300, **{key: keys[key]})[:, 0, 0, 0] for key in ("brightness", "gain", "gamma")
    }
    chosen = np.stack([np.isclose(found, values, rtol=0, atol=1e-6) for values in alone.values()])
    assert (chosen.sum(0) == 1).all()
    np.testing.assert_allclose(chosen.mean(1), 1 / 3, atol=0.1)


def test_randaugment_switches_on_all_that_have_a_magnitude_and_keeps_what_is_set():
    chain = on(rand_count=2, rand_magnitude=0.5, rotate=3.0)
    assert len(chain.members) == len(AUGMENTATIONS)
    at = {type(settings).__name__: settings for _, settings in chain.members}
    assert at["Rigid"].rotate == 3.0 and at["Scale"].scale == pytest.approx(0.1) and at["Flip"].flip
    kinds = [member.kind for member, _ in chain.members]
    assert kinds == sorted(kinds, key=["geometry", "warp", "intensity", "occlusion"].index)


def test_more_than_there_are_cannot_be_chosen():
    with pytest.raises(UserError, match="rand_count=99, but there are"):
        on(rand_count=99)


@given(
    st.dictionaries(
        st.sampled_from(["scale", "gamma", "erase", "blur"]), st.sampled_from([0.0, 0.2]), min_size=1
    )
)
@settings(max_examples=20, deadline=None)
def test_what_is_switched_on_is_what_the_chain_holds(section):
    active = augment.switched_on({**section, "flip": False, "rand_magnitude": 0.5})
    assert active == {key: value for key, value in section.items() if value}
    assert len(on(**section).members) == len(active)


# --- a map beside the picture ----------------------------------------------------------------------------------------


def test_a_map_beside_the_picture_moves_with_it():
    keys = {"flip": True, "rotate": 20.0, "shift": 0.1, "scale": 0.2, "shear": 5.0, "elastic": 0.01}
    both = of(np.concatenate([SMOOTH, SMOOTH], -1), rows=8, **keys)
    assert np.array_equal(both[..., 0], both[..., 1])
    assert np.array_equal(both[..., :1], of(SMOOTH, rows=8, **keys))


@pytest.mark.slow
def test_what_changes_brightness_or_covers_the_picture_leaves_its_map():
    keys = {"brightness": 0.2, "contrast": 0.4, "gain": 0.3, "gamma": 0.4, "poisson": 0.1, "blur": 2.0}
    keys |= {"clahe": 0.5, "erase": 1.0, "collimate": 0.3, "marker": 1.0}
    map_ = SMOOTH[::-1] > 0.5
    both = of(np.concatenate([SMOOTH, map_], -1), rows=8, **keys)
    assert np.array_equal(both[..., 1:], np.broadcast_to(map_, (8, *map_.shape)))
    assert np.array_equal(both[..., :1], of(SMOOTH, rows=8, **keys))
