"""Preprocessing: the paper's order, checked against an independent resize, and a spec that travels."""

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter, median_filter

from data_prep.decode import DecodeError, Limits
from data_prep.denoise.bm3d import bm3d
from data_prep.denoise.registry import DENOISERS, DenoiseSpec, denoiser
from data_prep.preprocess import PreprocessSpec, preprocess, preprocess_file, preprocess_native
from data_prep.settings import DenoiseSection, PrepareSettings
from osteojax.errors import UserError

# Half a step of the rounding to multiples of 2**-12, and float32 on top.
ROUNDING = 2.0**-13 + 1e-5
BM3D = DenoiseSpec.of("bm3d", {})


def radiograph(height=150, width=110):
    """Smooth structure with noise, 8 bit."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width] / 25.0
    return np.round(120 + 60 * np.sin(x) * np.cos(y) + rng.normal(0, 5, (height, width))).clip(0, 255)


@pytest.mark.parametrize("shape", [(150, 110), (64, 300), (20, 30), (33, 500)])
def test_resize_as_jax_image_resize_antialiases(shape):
    pixels = radiograph(*shape)
    size = 56
    reference = jax.image.resize(pixels.astype(np.float32), (size, size), "linear", antialias=True)
    reference = (reference - reference.min()) / (reference.max() - reference.min())
    image = preprocess(pixels, PreprocessSpec(image_size=size))
    # Both are the triangle filter widened by the scale in float32; Pillow rounds its weights' sums differently.
    np.testing.assert_allclose(image[..., 0], reference, atol=ROUNDING + 1e-5)


@pytest.mark.parametrize("aspect", ["squash", "letterbox"])
def test_resizing_band_by_band_is_resizing_at_once(aspect, monkeypatch):
    pixels = radiograph(301, 170)
    spec = PreprocessSpec(aspect=aspect, image_size=56)
    at_once = preprocess(pixels, spec)
    monkeypatch.setattr("data_prep.bands._PIXELS", 170 * 13)
    np.testing.assert_array_equal(preprocess(pixels, spec), at_once)
    if aspect == "squash":
        picture = Image.fromarray(pixels.astype(np.float32)).resize((56, 56), Image.Resampling.BILINEAR)
        resized = np.asarray(picture)
        expected = (resized - resized.min()) / np.ptp(resized)
        np.testing.assert_allclose(at_once[..., 0], expected, atol=ROUNDING)


def test_result_is_float32_from_0_to_1_in_steps_of_a_4096th():
    image = preprocess(radiograph(), PreprocessSpec())
    assert (image.shape, image.dtype) == ((224, 224, 1), np.float32)
    assert (image.min(), image.max()) == (0.0, 1.0)
    np.testing.assert_array_equal(image * 4096, np.round(image * 4096))


def test_nothing_aliases():
    # Stripes of one pixel, an eighth of the ramp's range, that every fifth pixel alone would show in full.
    ramp = np.tile(np.linspace(0, 1000, 200)[:, None], (1, 200))
    stripes = ramp + np.tile([0.0, 125.0], (200, 100))
    spec = PreprocessSpec(image_size=40)
    inside = np.s_[2:-2, 2:-2]  # at the border the filter is cut off
    np.testing.assert_allclose(preprocess(stripes, spec)[inside], preprocess(ramp, spec)[inside], atol=0.01)


def test_units_and_offset_do_not_matter():
    pixels = radiograph()
    spec = PreprocessSpec(image_size=64)
    np.testing.assert_allclose(
        preprocess(pixels * 257.0 + 31.0, spec, 65535.0), preprocess(pixels, spec), atol=2.0**-12 + 1e-6
    )


def test_a_constant_image_gives_zeros_and_says_so():
    done = preprocess_native(np.full((50, 60), 7.0), PreprocessSpec())
    assert not done.image.any() and "constant" in done.warnings


def test_letterbox_keeps_the_aspect_ratio():
    image = preprocess(np.tile(np.arange(100.0), (50, 1)), PreprocessSpec(image_size=64, aspect="letterbox"))[
        ..., 0
    ]
    assert not image[:16].any() and not image[-16:].any()
    assert (image[16:48].max(axis=1) > 0.99).all()


def test_a_letterbox_is_padded_with_the_darkest_value():
    pixels = np.tile(np.linspace(1000.0, 1100.0, 90), (30, 1))
    image = preprocess(pixels, PreprocessSpec(image_size=60, aspect="letterbox"))[..., 0]
    assert not image[:20].any() and not image[40:].any()
    # The picture itself goes over the whole range, which a darker border would have taken from it.
    np.testing.assert_allclose(image[30, 1:-1], np.linspace(0, 1, 60)[1:-1], atol=0.01)


@pytest.mark.parametrize("bits", [8, 12, 20])
def test_the_result_is_rounded_to_as_many_bits_as_asked_for(bits):
    pixels = np.random.default_rng(0).normal(size=(64, 64))
    image = preprocess(pixels, PreprocessSpec(image_size=64, value_bits=bits))[..., 0].astype(np.float64)
    np.testing.assert_array_equal(image * 2**bits, np.rint(image * 2**bits))
    exact = (pixels - pixels.min()) / np.ptp(pixels)
    error = np.abs(image - exact)
    # Rounding to a step errs by up to half of it, and with 4096 pixels nearly that much somewhere.
    assert error.max() <= 0.5 / 2**bits + 3e-7
    assert error.max() > 0.4 / 2**bits


def test_denoising_comes_before_resizing_at_the_given_sigma(monkeypatch):
    calls = []

    def recorded(image, sigma, *, psd, profile, backend):
        assert psd is None
        calls.append((image.shape, sigma, profile, backend))
        return image

    monkeypatch.setattr("data_prep.denoise.block_matching.bm3d", recorded)
    pixels = radiograph() * 257
    spec = PreprocessSpec(denoise=DenoiseSpec.of("bm3d", {"profile": "np"}), sigma=10.0, image_size=32)
    preprocess(pixels, spec, 65535.0)
    assert calls == [((150, 110), pytest.approx(10.0 * 257), "np", "numba")]
    done = preprocess_native(pixels, dataclasses.replace(spec, sigma=None), 65535.0)
    assert calls[1][1] / 257 == pytest.approx(5.0, rel=0.15)  # the noise that radiograph() adds
    assert done.sigma * 257 == pytest.approx(calls[1][1])


@pytest.mark.parametrize("backend", ["numba", "package"])
def test_denoised_pixels_are_bm3ds(backend):
    if backend == "package":  # an extra: closed, and not for every machine
        pytest.importorskip("bm3d")
    pixels = radiograph(64, 72)
    spec = PreprocessSpec(denoise=DenoiseSpec.of("bm3d", {"backend": backend}), sigma=5.0, image_size=32)
    done = preprocess_native(pixels, spec)
    np.testing.assert_array_equal(done.denoised, bm3d(pixels.astype(np.float32), 5.0, backend=backend))
    plain = preprocess_native(pixels, dataclasses.replace(spec, denoise=DenoiseSpec()))
    assert np.abs(done.denoised - plain.denoised).mean() > 1


def test_poisson_noise_is_denoised_better_with_its_model():
    y, x = np.mgrid[:192, :192] / 192
    clean = 6 + 90 * (x + 0.3 * np.sin(6 * y))
    rng = np.random.default_rng(1)
    noisy = rng.poisson(clean.clip(1)).astype(np.float32)
    error = {}
    for model in ("gaussian", "poisson"):
        done = preprocess_native(noisy, PreprocessSpec(denoise=BM3D, noise_model=model))
        error[model] = np.abs(done.denoised - clean).mean()
        assert "not_poisson" not in done.warnings
    assert error["poisson"] < 0.9 * error["gaussian"]
    falling = clean + rng.normal(size=clean.shape) * (12 - 0.1 * clean)  # the brighter, the less noise
    done = preprocess_native(falling, PreprocessSpec(denoise=BM3D, noise_model="poisson"))
    assert "not_poisson" in done.warnings


def test_spec_travels_as_json():
    spec = PreprocessSpec(denoise=BM3D, sigma=12.5, image_size=128, aspect="letterbox")
    assert PreprocessSpec.from_json(spec.to_json()) == spec
    assert PreprocessSpec.from_dict(spec.to_dict()) == spec


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "not JSON"),
        ("[]", "is a dictionary"),
        ('{"image_size": 224}', "has the fields"),
        (PreprocessSpec().to_json().replace('"version": 3', '"version": 4'), "version 3; got"),
        (PreprocessSpec().to_json().replace('"version": 3', '"version": 2'), "version 3; got"),
    ],
)
def test_specs_of_other_releases_are_refused(text, message):
    with pytest.raises(UserError, match=message):
        PreprocessSpec.from_json(text)


@pytest.mark.parametrize(
    "fields",
    [
        {"denoise": {"name": "magic", "settings": {}}},
        {"denoise": {"name": "bm3d", "settings": {"profile": "slow"}}},
        {"denoise": {"name": "bm3d", "settings": {"strength": 1}}},
        {"denoise": {"name": "none", "settings": {"profile": "np"}}},
        {"denoise": "bm3d"},
        {"noise_model": "pink"},
        {"denoise_at": "dawn"},
        {"aspect": "crop"},
        {"image_size": 4},
        {"image_size": 224.0},
        {"sigma": -1.0},
        {"sigma": float("nan")},
        {"value_bits": 4},
        {"burned_in": "flag"},
        {"denoise_when": "never"},
    ],
)
def test_settings_are_checked_at_once(fields):
    with pytest.raises(UserError, match=r"it must be|no denoiser 'magic'; there are|no config key"):
        PreprocessSpec.from_dict({**PreprocessSpec().to_dict(), **fields})


VERSION_1 = {
    "denoise_backend": "numba",
    "denoise_profile": "np",
    "sigma": 12.5,
    "noise_model": "gaussian",
    "image_size": 128,
    "aspect": "letterbox",
    "value_bits": 12,
    "version": 1,
}


def test_specs_of_version_1_mean_the_same():
    settings = {"profile": "np", "backend": "numba"}
    spec = PreprocessSpec(DenoiseSpec("bm3d", settings), 12.5, image_size=128, aspect="letterbox")
    assert PreprocessSpec.from_dict(VERSION_1) == spec
    # Where there was no denoising the profile meant nothing.
    none = PreprocessSpec.from_dict(VERSION_1 | {"denoise_backend": "none"})
    assert none.denoise == DenoiseSpec() == PreprocessSpec().denoise
    with pytest.raises(UserError, match=r"denoise\.backend is 'abacus'"):
        PreprocessSpec.from_dict(VERSION_1 | {"denoise_backend": "abacus"})
    with pytest.raises(UserError, match="has the fields"):
        PreprocessSpec.from_dict(VERSION_1 | {"strange": 1})


def test_specs_of_version_2_denoise_at_the_native_resolution():
    fields = {k: v for k, v in PreprocessSpec(sigma=2.0).to_dict().items() if k != "denoise_at"} | {
        "version": 2
    }
    assert PreprocessSpec.from_dict(fields) == PreprocessSpec(sigma=2.0, denoise_at="native")


def test_what_earlier_releases_did_is_not_told_so_that_their_fingerprints_hold():
    assert PreprocessSpec().to_json() == (
        '{"aspect": "squash", "denoise": {"name": "none", "settings": {}}, "denoise_at": "native", "image_size": 224, '
        '"noise_model": "gaussian", "sigma": null, "value_bits": 12, "version": 3}'
    )
    for name, value in {"burned_in": "mask", "denoise_when": "known"}.items():
        spec = PreprocessSpec(**{name: value})
        assert spec.to_dict()[name] == value and PreprocessSpec.from_json(spec.to_json()) == spec
    assert PreprocessSpec.from_dict(dataclasses.asdict(PreprocessSpec())) == PreprocessSpec()


def test_the_rule_stands_in_the_spec_only_where_something_is_estimated():
    def told(**denoise):
        return PrepareSettings(denoise=DenoiseSection(**denoise)).spec.denoise_when

    assert told() == "known" and told(noise_model="poisson") == "known"
    assert told(when="always") == told(sigma=3.0) == told(name="none") == told(backend="none") == "always"


@pytest.mark.parametrize("aspect", ["squash", "letterbox"])
@pytest.mark.parametrize("noise_model", ["gaussian", "poisson"])
def test_denoising_after_resizing_is_denoising_the_resized_image(aspect, noise_model):
    rng = np.random.default_rng(0)
    noisy = rng.poisson(radiograph(200, 150) / 2).astype(np.float32)
    spec = PreprocessSpec(
        denoise=BM3D, noise_model=noise_model, denoise_at="resized", image_size=100, aspect=aspect
    )
    size = (75, 100) if aspect == "letterbox" else (100, 100)
    small = np.asarray(Image.fromarray(noisy).resize(size, Image.Resampling.BILINEAR))
    done = preprocess_native(noisy, spec)
    # The result for an image that had this size from the beginning.
    native = preprocess_native(small, dataclasses.replace(spec, denoise_at="native"))
    assert done.denoised.shape == size[::-1]
    np.testing.assert_array_equal(done.denoised, native.denoised)
    np.testing.assert_array_equal(done.image, native.image)
    assert done.sigma == native.sigma < preprocess_native(noisy, PreprocessSpec(denoise=BM3D)).sigma
    assert (done.image != preprocess(noisy, dataclasses.replace(spec, denoise_at="native"))).any()


@pytest.mark.parametrize("shape", [(4000, 32), (32, 4000), (32, 32)])
@pytest.mark.parametrize("name", DENOISERS)
def test_denoising_after_resizing_takes_slivers_too(shape, name):
    pixels = np.random.default_rng(0).uniform(0, 255, shape)
    spec = PreprocessSpec(
        denoise=DenoiseSpec.of(name, {}), denoise_at="resized", image_size=16, aspect="letterbox"
    )
    assert preprocess(pixels, spec).max() == 1.0


def test_letterbox_undoes_pixels_that_are_not_square():
    disc = np.hypot(*np.mgrid[-30:31, -30:31]) < 20
    spec = PreprocessSpec(image_size=64, aspect="letterbox")
    wide = preprocess(disc[:, ::2].astype(float), spec, pixel_aspect=0.5)[
        ..., 0
    ]  # pixels twice as wide as high
    extent = [np.count_nonzero(wide.max(axis) > 0.5) for axis in (0, 1)]
    assert abs(extent[0] - extent[1]) <= 2
    narrow = preprocess(disc[:, ::2].astype(float), spec)[..., 0]
    assert np.count_nonzero(narrow.max(0) > 0.5) < 0.6 * np.count_nonzero(narrow.max(1) > 0.5)


@pytest.mark.parametrize("name", DENOISERS)
def test_every_denoiser_keeps_shape_and_takes_noise_away_or_nothing(name):
    pixels = radiograph(72, 64).astype(np.float32)
    found = DenoiseSpec.of(name, {})(pixels, 5.0)
    assert found.shape == pixels.shape and found.dtype == np.float32
    clean = gaussian_filter(pixels, 2)
    assert name == "none" or np.abs(found - clean).mean() < 0.7 * np.abs(pixels - clean).mean()


def test_a_denoiser_is_one_registration():
    @dataclasses.dataclass(frozen=True)
    class Settings:
        size: int = 3

    with DENOISERS.temporary():

        @denoiser("median", settings=Settings)
        def median(pixels, sigma, settings):
            return median_filter(pixels, settings.size)

        spec = PreprocessSpec.from_dict(
            {**PreprocessSpec().to_dict(), "denoise": {"name": "median", "settings": {"size": 5}}}
        )
        done = preprocess_native(radiograph(), spec)
        np.testing.assert_array_equal(done.denoised, median_filter(radiograph().astype(np.float32), 5))
        # What the network sees is the denoised image, resized afterwards.
        np.testing.assert_array_equal(done.image, preprocess(done.denoised, PreprocessSpec()))
        assert (done.image != preprocess(radiograph(), PreprocessSpec())).any()
    with pytest.raises(UserError, match="no denoiser 'median'; there are"):
        PreprocessSpec.from_dict(spec.to_dict())


@pytest.mark.parametrize("scale", [1e37, 3e38])
@pytest.mark.parametrize("name", ["none", "bm3d"])
def test_pixels_at_the_edge_of_single_precision_give_finite_images_or_a_reason(scale, name):
    pixels = (radiograph(64, 64).astype(np.float64) / 127.5 - 1) * scale
    try:
        image = preprocess(pixels, PreprocessSpec(denoise=DenoiseSpec.of(name, {})))
    except DecodeError as error:
        assert "too large" in str(error)
    else:
        assert np.isfinite(image).all() and image.max() == 1


def test_a_file_is_preprocessed_as_its_pixels_are(tmp_path):
    pixels = radiograph().astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    spec = PreprocessSpec(image_size=64)
    np.testing.assert_array_equal(preprocess_file(tmp_path / "a.png", spec), preprocess(pixels, spec))
    with pytest.raises(UserError, match=r"a\.png: .*over the limit"):
        preprocess_file(tmp_path / "a.png", spec, Limits(max_pixels=100))
    (tmp_path / "b.png").write_bytes(b"x")
    with pytest.raises(UserError, match=r"b\.png: not a PNG"):
        preprocess_file(tmp_path / "b.png", spec)
