"""The loop of networks that learn from what is generated."""

import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from ml_collections import ConfigDict

from osteojax.devices.mesh import make_mesh
from osteojax.errors import UserError
from osteojax.train.fit import fit
from osteojax.train.loop import Preempted
from osteojax.train.window import Diverged

STEPS = 7


class Line(nnx.Module):
    def __init__(self):
        self.layer = nnx.Linear(3, 128, use_bias=False, rngs=nnx.Rngs(0))
        self.norm = nnx.BatchNorm(128, rngs=nnx.Rngs(0))
        self.last = nnx.Linear(128, 1, rngs=nnx.Rngs(1))

    def __call__(self, x):
        return self.last(self.norm(self.layer(x)))[..., 0]


def batches(step):
    x = np.random.default_rng(step).normal(size=(32, 3)).astype(np.float32)
    return {"x": x, "y": x @ np.float32([1, -2, 0.5])}


def loss(model, batch, key):
    x = batch["x"] + 0.01 * jax.random.normal(key, batch["x"].shape)
    return jnp.mean(jnp.square(model(x) - batch["y"]))


def run(workdir, batches=batches, *, loss=loss, mesh=None, rate=0.01, steps=STEPS):
    model = Line()
    fit(
        model, loss, batches, optax.adam(rate), workdir, config=ConfigDict({"rate": rate}),
        mesh=mesh or make_mesh(1, devices=jax.devices()[:1]), steps=steps, seed=3, checkpoint_every=3, log_every=2,
    )  # fmt: skip
    return jax.tree.leaves(nnx.state(model, (nnx.Param, nnx.BatchStat)))


def equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_it_learns_and_moves_the_statistics(tmp_path, caplog):
    before = jax.tree.leaves(nnx.state(Line(), (nnx.Param, nnx.BatchStat)))
    after = run(tmp_path, steps=40, rate=0.05)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(2, 41, 2))
    assert lines[-1]["train/loss"] < 0.5 * lines[0]["train/loss"]
    assert not any(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert "tracked_metric" not in caplog.text  # Orbax, where it was promised a validation that never comes


def test_killed_and_started_again_it_ends_with_the_bits_of_one_that_was_not(tmp_path):
    whole = run(tmp_path / "whole")

    def dies_at_5(step):
        if step == 5:
            raise KeyboardInterrupt
        return batches(step)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", dies_at_5)
    seen = []
    resumed = run(tmp_path / "killed", lambda step: seen.append(step) or batches(step))
    assert seen[0] == 3 and equal(whole, resumed)
    assert (tmp_path / "whole/metrics.jsonl").read_bytes() == (tmp_path / "killed/metrics.jsonl").read_bytes()


def test_sigterm_saves_and_the_listener_of_before_is_back(tmp_path):
    def terminated_at_4(step):
        if step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return batches(step)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Preempted, match="after step 5"):
        run(tmp_path / "a", terminated_at_4)
    assert signal.getsignal(signal.SIGTERM) is before
    assert equal(run(tmp_path / "a"), run(tmp_path / "b"))


def test_a_complete_run_gives_its_model_again_without_a_step(tmp_path):
    done = run(tmp_path)
    assert equal(done, run(tmp_path, batches=None))


def test_devices_agree_to_float_tolerance(tmp_path):
    one = run(tmp_path / "one")
    two = run(tmp_path / "two", mesh=make_mesh(1, 2, jax.devices()[:2]))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_another_config_is_refused_and_named(tmp_path):
    run(tmp_path)
    with pytest.raises(UserError, match=r"rate: 0\.01 -> 0\.02.*another --workdir"):
        run(tmp_path, rate=0.02)


def test_a_loss_that_is_not_finite_stops_the_run_with_its_step(tmp_path):
    def bad(model, batch, key):
        return loss(model, batch, key) / batch["ok"][0]

    def some(step):
        return batches(step) | {"ok": np.full(32, step != 4, np.float32)}

    with pytest.raises(Diverged, match="at step 5"):
        run(tmp_path, some, loss=bad)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["3"]
