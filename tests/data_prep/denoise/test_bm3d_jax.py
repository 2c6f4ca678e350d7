"""BM3D in JAX is BM3D in numba: alone, batched, bucketed, in bands, and lowered for hardware that is not
here.

How equality is measured: the absolute difference over the range of the noisy image, at the worst pixel. The
backends round differently, which decides once in a long while whether a coefficient passes the hard threshold;
without one, what is left is rounding.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from PIL import Image

from data_prep.denoise.bm3d import FAST, NP, bm3d, jax_backend, numba_backend
from data_prep.denoise.bm3d.jax_backend import bucket, denoise_batch, denoise_padded, denoise_padded_batch

SIGMA = 22.4


def radiograph(height: int, width: int) -> np.ndarray:
    """A bone's edge, a texture and a black border on [0, 255]."""
    y, x = np.mgrid[:height, :width].astype(float)
    edge = 0.3 * width + 4 * np.sin(y / 9)
    bone = 40 + 150 / (1 + np.exp((edge - x) / 1.5)) + 25 * np.sin(x / 2.2) * np.cos(y / 3.1)
    return np.clip(np.where(x < width // 8, 0, bone), 0, 255)


def noisy(height: int, width: int, seed: int) -> np.ndarray:
    return radiograph(height, width) + SIGMA * np.random.default_rng(seed).normal(size=(height, width))


def images() -> list[np.ndarray]:
    """In units of sigma: several sizes of one bucket, ties, constants."""
    eight_bit = np.clip(np.round(noisy(68, 80, 2)), 0, 255)
    still = radiograph(56, 68)
    still[:, :30] = 0
    grey_levels = [noisy(56, 80, 0), noisy(44, 92, 1), eight_bit, still]
    return [((image - 128) / SIGMA).astype(np.float32) for image in grey_levels]


def difference(a: np.ndarray, b: np.ndarray, image: np.ndarray) -> float:
    return float(np.abs(a - b).max() / np.ptp(image))


@pytest.mark.parametrize("profile", [FAST, pytest.param(NP, marks=pytest.mark.slow)], ids=["fast", "np"])
def test_a_batch_of_several_sizes_equals_numba_within_a_thousandth_of_the_range(profile):
    for image, clean in zip(images(), denoise_batch(images(), profile), strict=True):
        assert clean.shape == image.shape
        assert clean.dtype == np.float32
        expected = numba_backend.denoise(image, profile)
        assert difference(clean, expected, image) < 1e-3


def test_without_a_threshold_to_cross_the_difference_is_rounding():
    profile = dataclasses.replace(FAST, lambda_3d=1e-3)
    noisy_images = images()[:2]
    for image, clean in zip(noisy_images, denoise_batch(noisy_images, profile), strict=True):
        assert difference(clean, numba_backend.denoise(image, profile), image) < 1e-5


def test_neither_the_batch_nor_the_bucket_nor_what_lies_in_the_padding_matters():
    image = images()[0]
    together = denoise_batch(images(), FAST)[0]
    padded = np.full((2, 92, 116), 1e6, np.float32)
    padded[1, : image.shape[0], : image.shape[1]] = image
    sizes = np.array([(92, 116), image.shape], np.int32)
    alone = denoise_padded_batch(padded, sizes, profile=FAST)[1]
    np.testing.assert_allclose(alone[: image.shape[0], : image.shape[1]], together, atol=1e-4)
    assert not np.asarray(alone)[image.shape[0] :].any()
    assert not np.asarray(alone)[:, image.shape[1] :].any()


@pytest.mark.slow
def test_bands_and_chunks_only_bound_the_memory(monkeypatch):
    image = images()[0]
    expected = denoise_batch(images(), FAST)[0]
    monkeypatch.setattr(jax_backend, "_REFERENCES_PER_BAND", 100)
    monkeypatch.setattr(jax_backend, "_NUMBERS_PER_CHUNK", 37 * (16 * 8) ** 2)
    banded = jax.jit(partial(denoise_padded, profile=FAST))(image, jnp.array(image.shape, jnp.int32))
    np.testing.assert_allclose(banded, expected, atol=1e-4)


def test_sizes_share_buckets_so_that_compilations_are_bounded():
    sizes = [bucket(n) for n in range(1, 4097)]
    assert all(n <= b <= max(8, 1.25 * n) for n, b in enumerate(sizes, 1))
    assert len(set(sizes)) == 8 + 4 * 9  # four an octave from 8 to 4096
    before = denoise_padded_batch._cache_size()
    for width in (84, 88, 96):
        denoise_batch([np.zeros((68, width), np.float32)] * 4, FAST)
    assert denoise_padded_batch._cache_size() <= before + 1


@pytest.mark.parametrize(
    "shape", [(1, 1), *(pytest.param(shape, marks=pytest.mark.slow) for shape in ((3, 7), (8, 8))), (9, 17)]
)
def test_the_smallest_images_pass_through_the_public_function(shape):
    image = 100 + 10 * np.random.default_rng(0).normal(size=shape)
    result = bm3d(image, 10.0, backend="jax")
    np.testing.assert_allclose(result, bm3d(image, 10.0, backend="numba"), atol=1e-3 * 60)
    assert result.shape == shape
    assert result.dtype == np.float32


def test_a_constant_image_stays_as_it_is():
    assert (bm3d(np.full((9, 17), 7.25), 3.0, backend="jax") == 7.25).all()


@pytest.mark.parametrize("size", range(1, 13))
def test_box_sums_of_any_size(size):
    x = np.random.default_rng(0).random((20, 5)).astype(np.float32)
    expected = np.lib.stride_tricks.sliding_window_view(x.astype(float), size, axis=0).sum(axis=-1)
    np.testing.assert_allclose(jax_backend._box_sum(jnp.asarray(x), size, 0), expected, rtol=1e-6)


@pytest.mark.parametrize("profile", [FAST, NP], ids=lambda p: p.name)
def test_one_program_lowers_for_gpu_and_tpu(profile):
    batch = jax.ShapeDtypeStruct((4, 224, 224), jnp.float32)
    sizes = jax.ShapeDtypeStruct((4, 2), jnp.int32)
    exported = export.export(denoise_padded_batch, platforms=("cuda", "tpu"))(batch, sizes, profile=profile)
    assert exported.platforms == ("cuda", "tpu")
    assert exported.out_avals[0].shape == (4, 224, 224)
    # The exact products that the threshold needs, and no double precision, which TPUs do not have.
    assert "HIGHEST" in exported.mlir_module()
    assert "f64" not in exported.mlir_module()


def test_a_batch_is_sharded_over_devices_without_a_change():
    devices = jax.devices()
    if len(devices) < 4:
        pytest.skip(f"needs 4 devices, there are {len(devices)}")
    sharding = jax.NamedSharding(jax.sharding.Mesh(devices[:4], "data"), jax.P("data"))
    batch = np.stack([images()[0][:32, :32]] * 4) + np.arange(4, dtype=np.float32)[:, None, None]
    sizes = np.full((4, 2), 32, np.int32)
    one = denoise_padded_batch(batch, sizes, profile=FAST)
    four = denoise_padded_batch(*jax.device_put((batch, sizes), sharding), profile=FAST)
    assert four.sharding.is_equivalent_to(sharding, 3)
    np.testing.assert_allclose(one, four, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("profile", [FAST, NP], ids=lambda p: p.name)
def test_it_compiles_ahead_of_time_for_a_tpu(profile, monkeypatch):
    pytest.importorskip("libtpu", reason="libtpu is not installed (pip install libtpu)")
    from jax.experimental import topologies

    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")  # there is no metadata server to ask
    topology = topologies.get_topology_desc("v5e:2x4", "tpu")
    sharding = jax.NamedSharding(jax.sharding.Mesh(topology.devices, "data"), jax.P("data"))
    spec = partial(jax.ShapeDtypeStruct, sharding=sharding)
    lowered = denoise_padded_batch.lower(
        spec((8, 224, 224), jnp.float32), spec((8, 2), jnp.int32), profile=profile
    )
    compiled = lowered.compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 2**30
    assert compiled.cost_analysis()["flops"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("profile", [FAST, NP], ids=lambda p: p.name)
def test_half_a_megapixel_needs_little_memory(profile):
    batch = jax.ShapeDtypeStruct((1, 512, 512), jnp.float32)
    sizes = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    compiled = denoise_padded_batch.lower(batch, sizes, profile=profile).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 150e6


@pytest.mark.slow
@pytest.mark.parametrize("profile", [FAST, NP], ids=lambda p: p.name)
@pytest.mark.parametrize("eight_bit", [False, True])
def test_real_radiographs_equal_numba(shared, profile, eight_bit):
    clean = np.asarray(Image.open(shared / "data" / "fullres" / "OS7.JPEG").convert("L"), float)
    clean = clean[300:812, 200:712]
    image = clean + 25 * np.random.default_rng(0).normal(size=clean.shape)
    if eight_bit:
        image = np.clip(np.round(image), 0, 255)
    ours = bm3d(image, 25.0, profile=profile, backend="jax")
    numbas = bm3d(image, 25.0, profile=profile, backend="numba")
    assert difference(ours, numbas, image) < 1e-3
    errors = (np.mean((a - clean) ** 2) for a in (ours, numbas))
    assert abs(np.subtract(*10 * np.log10(list(errors)))) < 0.005
