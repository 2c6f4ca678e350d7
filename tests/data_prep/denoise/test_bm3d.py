"""BM3D on the CPU: against the formulas written out plainly, against `bmnd`, and what it promises of any
image."""

import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from data_prep.denoise.bm3d import FAST, NP, PROFILES, Profile, Stage, bm3d
from data_prep.denoise.bm3d.coloured import WHITE, autocovariance, unlike
from data_prep.denoise.bm3d.numba_backend import denoise
from data_prep.denoise.bm3d.strips import strips_of
from data_prep.denoise.bm3d.transforms import block_transform, haar_matrix, kaiser_window, overlap_correlation
from osteojax.errors import UserError


def scene(height: int, width: int) -> np.ndarray:
    """A clean image with an edge, a ramp, stripes and flat parts, in [0, 255]."""
    y, x = np.mgrid[:height, :width]
    stripes = 30 * np.sin(0.9 * x) * (y > height / 2)
    return 60 + 0.4 * y + 90 * (x + 0.3 * y > width / 2) + stripes


def noisy_scene(height: int, width: int, sigma: float = 20.0, seed: int = 0) -> np.ndarray:
    """The scene with white Gaussian noise."""
    return scene(height, width) + np.random.default_rng(seed).normal(0, sigma, (height, width))


def psnr(clean: np.ndarray, image: np.ndarray) -> float:
    return 10 * np.log10(255**2 / np.mean((clean - image) ** 2))


def small(profile: Profile) -> Profile:
    """A profile with a search window of 9 pixels: quick, and with room for an interior."""
    stages = (replace(stage, search_window=9, group_size=8) for stage in (profile.hard, profile.wiener))
    hard, wiener = stages
    return replace(profile, name="small", hard=hard, wiener=wiener)


# The formulas, one block after the other, in float64.


def plain_stage(
    z: np.ndarray,
    pilot: np.ndarray,
    stage: Stage,
    wiener: bool,
    strength: float,
    autocovariance: np.ndarray = WHITE,
) -> np.ndarray:
    n = stage.block_size
    forward, inverse = block_transform(stage.transform_2d, n)
    window = np.outer(*[kaiser_window(n, stage.kaiser_beta)] * 2)
    numerator, denominator = np.zeros(z.shape), np.zeros(z.shape)
    guide = np.rint(pilot * stage.grid) / stage.grid if stage.grid else pilot

    def block(image: np.ndarray, at: np.ndarray) -> np.ndarray:
        return image[at[0] : at[0] + n, at[1] : at[1] + n].astype(np.float64)

    for y in range(0, z.shape[0] - n + 1, stage.step):
        for x in range(0, z.shape[1] - n + 1, stage.step):
            reference = block(guide, (y, x))
            candidates = []
            for order, offset in enumerate(unlike(stage.offsets(), autocovariance)):
                at = np.array([y, x]) + offset
                if (at >= 0).all() and (at <= np.array(z.shape) - n).all():
                    distance = np.mean((reference - block(guide, at)) ** 2)
                    if distance < stage.tau_match:
                        candidates.append((max(distance, stage.distance_floor), order, at))
            candidates.sort(key=lambda c: c[:2])
            size = 1 << (min(len(candidates), stage.group_size).bit_length() - 1)
            places = [at for _, _, at in candidates[:size]]
            haar = haar_matrix(size)

            def spectrum(image: np.ndarray, haar: np.ndarray = haar, places: list = places) -> np.ndarray:
                return np.einsum(
                    "ja,kp,apq,lq->jkl", haar, forward, [block(image, at) for at in places], forward
                )

            variance = dense_variance(places, haar, forward, autocovariance)
            coefficients = spectrum(z)
            if wiener:
                power = spectrum(pilot) ** 2
                gain = power / (power + strength * variance)
            else:
                gain = (coefficients**2 >= strength**2 * variance).astype(float)
            weight = 1 / np.sum((gain**2 * variance).ravel()[1:], initial=variance[0, 0, 0])
            gain[0, 0, 0] = 1
            blocks = np.einsum("ja,pk,jkl,ql->apq", haar, inverse, gain * coefficients, inverse)
            for at, filtered in zip(places, blocks, strict=True):
                numerator[at[0] : at[0] + n, at[1] : at[1] + n] += weight * window * filtered
                denominator[at[0] : at[0] + n, at[1] : at[1] + n] += weight * window
    return numerator / denominator


def dense_variance(
    places: list, haar: np.ndarray, forward: np.ndarray, autocovariance: np.ndarray
) -> np.ndarray:
    """Variance of every coefficient of a group, from the pixels that each coefficient sums and what these share."""
    n = len(forward)
    lowest = np.min(places, axis=0)
    extent = np.max(places, axis=0) - lowest + n
    pixels = np.zeros((len(places), n, n, *extent))
    for a, at in enumerate(places):
        y, x = at - lowest
        pixels[a, :, :, y : y + n, x : x + n] = np.einsum("kp,lq->klpq", forward, forward)
    maps = np.einsum("ja,aklyx->jklyx", haar, pixels)
    around = np.pad(autocovariance, [(len(autocovariance) - 1, 0)] * 2, mode="reflect")
    shared = ndimage.convolve(maps, around[None, None, None], mode="constant")
    return np.sum(maps * shared, axis=(-2, -1))


def every_pixel(profile: Profile) -> Profile:
    """A profile with a reference block at every pixel."""
    return replace(profile, hard=replace(profile.hard, step=1), wiener=replace(profile.wiener, step=1))


@pytest.mark.parametrize(
    ("profile", "shape"),
    [(NP, (24, 36)), (FAST, (24, 36)), (every_pixel(NP), (16, 20))],
    ids=["np", "fast", "every pixel"],
)
def test_equals_the_formulas_written_out(profile, shape):
    """Tolerance: thresholds may fall differently for a coefficient within float32's rounding of its threshold
    or for equally near blocks; that changes few pixels by little. So nearly all are equal to rounding."""
    p = small(profile)
    z = (noisy_scene(*shape) / 20 - 5).astype(np.float32)
    basic = plain_stage(z, z, p.hard, False, p.lambda_3d)
    expected = plain_stage(z, basic.astype(np.float32), p.wiener, True, p.mu2)
    error = np.abs(denoise(z, p) - expected)
    assert np.quantile(error, 0.95) < 2e-4
    assert error.max() < 0.05


def test_equals_the_formulas_written_out_where_the_noise_has_a_colour():
    """Along a group too, whose blocks share noise beyond their overlap."""
    p = small(FAST)
    blur = np.exp(-(np.arange(-3, 4) ** 2) / 2 / 0.8**2)
    psd = np.abs(np.fft.fft2(np.outer(blur, blur + 0.2), (32, 32))) ** 2
    r = autocovariance(psd)
    assert len(r) > 2
    z = (scene(24, 36) / 20 - 5).astype(np.float32)
    z += ndimage.convolve(np.random.default_rng(0).normal(size=z.shape), np.outer(blur, blur) / 2)
    basic = plain_stage(z, z, p.hard, False, p.lambda_3d, r)
    expected = plain_stage(z, basic.astype(np.float32), p.wiener, True, p.mu2, r)
    error = np.abs(denoise(z, p, r) - expected)
    assert np.quantile(error, 0.95) < 2e-4
    assert error.max() < 0.05


@pytest.mark.slow
def test_agrees_with_bmnd():
    """bmnd implements the same method independently, with its own ties and one weight a block.

    The images differ by 0.06 sigma on average over these four tiles, and bmnd is 0.02 dB better; the closed
    package is 0.07 dB below bmnd on them. Single tiles scatter by 0.1 dB, hence the mean, and bounds of 0.1
    sigma and 0.1 dB.
    """
    bmnd = pytest.importorskip("bmnd")
    clean, sigma = scene(64, 64), 20.0
    apart, behind = [], []
    for seed in range(4):
        noisy = noisy_scene(64, 64, sigma, seed)
        theirs = bmnd.bmnd((noisy / 255).astype(np.float32), bmnd.BM3DProfile(), sigma=sigma / 255) * 255
        ours = bm3d(noisy, sigma, profile="np")
        apart.append(np.sqrt(np.mean((ours - theirs) ** 2)))
        behind.append(psnr(clean, theirs) - psnr(clean, ours))
    assert np.mean(apart) < 0.1 * sigma
    assert np.mean(behind) < 0.1


@pytest.mark.parametrize("name", ["dct", "bior1.5"])
def test_block_transforms_invert_and_keep_the_noise(name):
    forward, inverse = block_transform(name, 8)
    np.testing.assert_allclose(inverse @ forward, np.eye(8), atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(forward, axis=1), 1)
    np.testing.assert_allclose(forward @ np.ones(8), [np.sqrt(8), 0, 0, 0, 0, 0, 0, 0], atol=1e-12)
    np.testing.assert_allclose(overlap_correlation(forward)[0], 1)


def test_haar_is_orthonormal():
    for size in (1, 2, 4, 8, 16, 32):
        np.testing.assert_allclose(haar_matrix(size) @ haar_matrix(size).T, np.eye(size), atol=1e-12)


@pytest.mark.parametrize("profile", ["np", "fast", "faster"])
def test_denoises(profile):
    clean = scene(96, 96)
    noisy = noisy_scene(96, 96)
    assert psnr(clean, bm3d(noisy, 20.0, profile=profile)) > psnr(clean, noisy) + 9


def test_an_added_constant_is_added_to_the_result():
    noisy = noisy_scene(48, 48)
    np.testing.assert_allclose(bm3d(noisy + 4096.0, 20.0), bm3d(noisy, 20.0) + 4096.0, atol=2e-3)


@pytest.mark.parametrize("scale", [1 / 255, 257.0, -1.0])
def test_scaling_image_and_sigma_scales_the_result(scale):
    """The wavelet of the first stage is symmetric about 0, so that a negative is denoised to a negative."""
    noisy = noisy_scene(48, 48)
    result = bm3d(noisy * scale, 20.0 * abs(scale))
    error = np.abs(result / scale - bm3d(noisy, 20.0))
    assert np.quantile(error, 0.99) < 1e-3
    assert error.max() < 1


def test_a_shifted_image_gives_the_shifted_result():
    """By a multiple of the step, inside of what the border reaches: twice search radius and block.

    Both images hold the extremes: the middle of the range is where the grid of the first stage's distances begins.
    """
    noisy = noisy_scene(96, 96)
    noisy[-1, -2:] = noisy.min(), noisy.max()
    p = small(FAST)
    whole, part = bm3d(noisy, 20.0, profile=p), bm3d(noisy[8:, 12:], 20.0, profile=p)
    reach = 2 * (4 + 8) + 8
    inside = np.abs(whole[8:, 12:] - part)[reach:-reach, reach:-reach]
    assert inside.size > 300
    assert inside.max() < 1e-3


@pytest.mark.parametrize("profile", ["np", "fast", "faster"])
@pytest.mark.parametrize("value", [0.0, 0.1, -3e6, 65535])
def test_a_constant_image_is_unchanged(profile, value):
    image = np.full((21, 34), value)
    np.testing.assert_array_equal(bm3d(image, 10.0, profile=profile), image.astype(np.float32))


def test_without_noise_nothing_changes():
    image = noisy_scene(40, 30)
    np.testing.assert_array_equal(bm3d(image, 0.0), image.astype(np.float32))
    np.testing.assert_array_equal(bm3d(image, 1e-9), image.astype(np.float32))
    np.testing.assert_allclose(bm3d(image, 1e-3), image, atol=1e-2)


@pytest.mark.parametrize("profile", ["np", "fast", "faster"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (5, 3), (7, 60), (8, 8), (9, 13), (50, 2), (61, 47)])
def test_any_size(shape, profile):
    noisy = 100 + np.random.default_rng(0).normal(0, 20, shape)
    result = bm3d(noisy, 20.0, profile=profile)
    assert result.shape == shape
    assert result.dtype == np.float32
    assert np.isfinite(result).all()
    assert result.std() <= noisy.std()


def test_dtypes_and_memory_layouts_give_the_same():
    noisy = np.rint(noisy_scene(40, 50)).clip(0, 255)
    expected = bm3d(noisy, 20.0)
    for dtype in (np.uint8, np.uint16, np.int32, np.float32):
        np.testing.assert_array_equal(bm3d(noisy.astype(dtype), 20.0), expected)
    np.testing.assert_array_equal(bm3d(np.asfortranarray(noisy), 20.0), expected)
    np.testing.assert_array_equal(bm3d(np.repeat(noisy, 2, axis=1)[:, ::2], 20.0), expected)
    np.testing.assert_array_equal(bm3d(noisy[::-1][::-1], 20.0), expected)


def test_the_input_is_left_alone():
    noisy = noisy_scene(24, 24).astype(np.float32)
    before = noisy.copy()
    bm3d(noisy, 20.0)
    np.testing.assert_array_equal(noisy, before)


@pytest.mark.parametrize("profile", ["np", "fast", "faster"])
@pytest.mark.parametrize("height", [389, 801])
def test_strips_of_a_large_image_are_as_the_whole_to_the_bit(profile, height, monkeypatch):
    noisy = noisy_scene(height, 40)
    whole = bm3d(noisy, 20.0, profile=profile)
    cut = list(strips_of(height, 40, PROFILES[profile], pixels=1))
    assert len(cut) >= 2
    assert [row for strip in cut for row in range(strip.first, strip.end)] == list(range(height))
    monkeypatch.setattr("data_prep.denoise.bm3d.strips_of", lambda height, width, profile: cut)
    np.testing.assert_array_equal(bm3d(noisy, 20.0, profile=profile), whole)


def test_only_large_images_are_cut_and_strips_are_bounded():
    assert len(list(strips_of(4096, 4096, FAST))) == 1
    strips = list(strips_of(10_000, 10_000, FAST))
    assert max(strip.bottom - strip.top for strip in strips) * 10_000 <= 2**24


def _denoise_seeded(seed: int) -> bytes:
    return bm3d(noisy_scene(70, 90, seed=seed), 20.0).tobytes()


def test_the_same_to_the_bit_from_threads_and_processes():
    expected = [_denoise_seeded(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(_denoise_seeded, range(4))) == expected
    with multiprocessing.get_context("spawn").Pool(2) as processes:
        assert processes.map(_denoise_seeded, range(4)) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cpu", "at_once"), [({}, 2), ({"NUMBA_CPU_NAME": "generic"}, 1)], ids=["this CPU", "any CPU"]
)
def test_the_same_to_the_bit_compiled_and_loaded_from_the_cache(tmp_path, cpu, at_once):
    """Processes that begin with an empty cache, as workers do at the same time, and one that finds it filled.

    What a compiler makes of a kernel on its own and inside its caller differs on some CPUs and not on others: it did
    on Intel's with AVX-512, not on AMD's, and on the plainest member of the family, which any machine can be.
    """
    code = """
import hashlib
import numpy as np
from data_prep.denoise.bm3d import bm3d
y, x = np.mgrid[:72, :90]
image = 60 + 0.4 * y + 90 * (x + 0.3 * y > 45) + np.random.default_rng(0).normal(0, 20, y.shape)
for profile in ("fast", "np"):
    for pixels in (image, image.clip(0, 255).astype(np.uint8)):
        print(hashlib.sha256(bm3d(pixels, 20.0, profile=profile)).hexdigest())
"""
    environment = os.environ | cpu | {"NUMBA_CACHE_DIR": str(tmp_path)}

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    def digests(process: subprocess.Popen[str]) -> list[str]:
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0
        return output.split()

    expected, *others = [digests(process) for process in [start() for _ in range(at_once)]]
    assert len(expected) == 4
    assert all(other == expected for other in others)
    assert list(tmp_path.rglob("*.nbc")), "nothing was cached"
    assert digests(start()) == expected


@pytest.mark.parametrize(
    ("image", "sigma", "options", "message"),
    [
        (np.zeros((4, 4, 3)), 1.0, {}, "greyscale"),
        (np.zeros((0, 4)), 1.0, {}, "pixels in it"),
        (np.zeros((4, 4), complex), 1.0, {}, "real pixel values"),
        (np.array([[1.0, np.nan]]), 1.0, {}, "1 of 2 pixels .* row 0, column 1"),
        (np.array([[np.inf], [1.0]]), 1.0, {}, "row 0, column 0"),
        (np.zeros((4, 4)), -1.0, {}, "sigma"),
        (np.zeros((4, 4)), float("nan"), {}, "sigma"),
        (np.zeros((4, 4)), 1.0, {"profile": "best"}, "unknown profile 'best'.*np, fast, faster"),
        (np.zeros((4, 4)), 1.0, {"backend": "gpu"}, "unknown backend 'gpu'"),
    ],
)
def test_bad_input_is_named(image, sigma, options, message):
    with pytest.raises(UserError, match=message):
        bm3d(image, sigma, **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"group_size": 12}, "power of two"),
        ({"search_window": 10}, "odd"),
        ({"step": 9}, "uncovered"),
        ({"distance_floor": 20.0}, "below tau_match"),
    ],
)
def test_profiles_that_cannot_work_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        replace(NP.hard, **change)


@pytest.mark.parametrize(
    ("change", "message"), [({"block_size": 16}, "side 8"), ({"step": 3}, "steps of 1, 2 or 4")]
)
def test_what_is_not_compiled_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        bm3d(noisy_scene(32, 32), 20.0, profile=replace(NP, hard=replace(NP.hard, **change)))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc, which only Linux has")
def test_memory_stays_flat():
    """The peak of a process that denoises a radiograph of 2048x2500, Python, numba and its compiled code included."""
    code = """
import numpy as np
from data_prep.denoise.bm3d import bm3d
bm3d(np.random.default_rng(0).integers(0, 255, SHAPE).astype(np.uint8), 20.0)
# Not the rusage of the process: a child's begins with what its parent had.
print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""

    def peak(shape: str) -> float:
        command = [sys.executable, "-c", code.replace("SHAPE", shape)]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) / 1024

    peak("(64, 64)")  # compiles, where that has not been done
    small, large = peak("(64, 64)"), peak("(2048, 2500)")
    assert large < 300, f"{large:.0f} MB in all"
    assert large - small < 25 * 2048 * 2500 / 1e6, f"{large - small:.0f} MB more than for 64x64"
