"""What holds on this machine's CPU must hold on its accelerator; `python benchmarks/accelerator.py` runs this there.

Everywhere else it skips: the tests proper simulate their devices on the CPU.
"""

import jax
import numpy as np
import pytest
import small

from data_prep.denoise.bm3d import PROFILES, numba_backend
from data_prep.denoise.bm3d.jax_backend import denoise_batch
from osteojax.devices.mesh import make_mesh
from osteojax.models.build import build
from osteojax.models.network import Network
from osteojax.train.experiment import read_experiment
from osteojax.train.step import Recipe, compile_step

pytestmark = pytest.mark.skipif(
    jax.default_backend() == "cpu", reason="no accelerator; see benchmarks/accelerator.py"
)
assert small  # registers the tiny network


def trained(device, config, steps=3):
    """State and losses of a few steps on one device."""
    experiment = read_experiment(config)
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.random((8, 32, 32, 1), dtype=np.float32),
        "label": rng.integers(0, 3, 8).astype(np.int32),
        "mask": np.ones(8, np.float32),
    }
    with jax.default_device(device):
        network = Network(build(experiment.model, config.model.name, 3, seed=0))
        params, stats = network.init()
        recipe = Recipe.of(experiment, network, 10, (1,) * 3)
        state = jax.jit(recipe.init_state)(params, stats)
        before = jax.device_get(state)
        step, _ = compile_step(recipe, 0, state, batch, make_mesh(1, 1, [device]))
        losses = []
        for _ in range(steps):
            state, metrics = step(state, batch)
            losses.append(jax.device_get(metrics))
    return before, jax.device_get(state), losses


@pytest.fixture
def config(tmp_path):
    found = small.quick_config(tmp_path)
    found.preset = "stage3+"
    return found


def test_a_step_on_the_accelerator_is_that_of_the_cpu(config):
    """Within a hundredth of the update: an accelerator multiplies float32 with fewer bits unless told otherwise."""
    with jax.default_matmul_precision("highest"):
        before, here, _ = trained(jax.devices("cpu")[0], config)
        _, there, _ = trained(jax.devices()[0], config)
    for path, value in here.params.items():
        moved = np.abs(value - before.params[path]).max()
        assert np.abs(there.params[path] - value).max() <= 1e-2 * moved + 1e-7, path


def test_frozen_parameters_and_statistics_stay_to_the_bit(config):
    before, after, _ = trained(jax.devices()[0], config)
    frozen = [path for path in before.params if path.startswith(("stem/", "stage1/", "stage2/"))]
    assert frozen and any((after.params[p] != before.params[p]).any() for p in before.params)
    for path in frozen:
        np.testing.assert_array_equal(after.params[path], before.params[path], err_msg=path)
    for path, value in before.batch_stats.items():
        if path.startswith(("stem/", "stage1/", "stage2/")):
            np.testing.assert_array_equal(after.batch_stats[path], value, err_msg=path)


def test_bfloat16_learns_there_too(config):
    config.model.dtype = "bfloat16"
    _, after, _ = trained(jax.devices()[0], config)
    assert all(np.isfinite(value).all() for value in after.params.values())


@pytest.mark.parametrize("profile", PROFILES)
def test_bm3d_on_the_accelerator_is_bm3d_in_numba(profile):
    rng = np.random.default_rng(0)
    image = (5 * np.kron(rng.random((7, 7)), np.ones((8, 8))) + rng.normal(size=(56, 56))).astype(np.float32)
    (found,) = denoise_batch([image], PROFILES[profile])
    assert np.abs(found - numba_backend.denoise(image, PROFILES[profile])).max() < 1e-3 * np.ptp(image)
