"""The training engine, on a network of a few thousand parameters and generated images."""

import json
import random
import shutil
import signal
import subprocess
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import small
from processes import command, free_port, launch, wait_for_step

from osteojax.cli.train import EXIT_PREEMPTED
from osteojax.errors import UserError
from osteojax.models.build import build
from osteojax.models.network import Network
from osteojax.run.best import BestSoFar
from osteojax.run.checkpoint import Checkpoints, is_better
from osteojax.train import loop as engine
from osteojax.train.experiment import read_experiment
from osteojax.train.loop import train


def saved(workdir, step=None, items=("params", "batch_stats", "opt_state", "ema", "ema_batch_stats")):
    """Name -> numpy array of a checkpoint (the newest by default)."""
    steps = sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit())
    folder = workdir / "checkpoints" / str(step or steps[-1])
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])  # wherever it was saved
    with ocp.StandardCheckpointer() as reader:
        trees = {}
        for name in items:
            if (folder / name).is_dir():
                shapes = reader.metadata(folder / name).item_metadata.tree
                like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), shapes)
                trees[name] = reader.restore(folder / name, like)
    leaves = jax.tree_util.tree_leaves_with_path(trees)
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in leaves}


def assert_same_bits(found, expected):
    assert found.keys() == expected.keys()
    assert [k for k in found if found[k].tobytes() != expected[k].tobytes()] == []


def assert_close(found, expected, tolerance):
    assert found.keys() == expected.keys()
    for name in found:
        np.testing.assert_allclose(found[name], expected[name], rtol=tolerance, atol=tolerance, err_msg=name)


def metrics_of(workdir):
    return (workdir / "metrics.jsonl").read_text()


@pytest.fixture(scope="module")
def reference(prepared, tmp_path_factory):
    """A finished run of six steps with EMA and augmentation, checkpointed every two steps."""
    workdir = tmp_path_factory.mktemp("reference")
    config = everything(prepared)
    train(config, workdir)
    return config, workdir


def everything(prepared):
    """All that carries state from step to step."""
    config = small.quick_config(prepared)
    config.optimizer.ema_decay = 0.9
    config.augment.update(flip=True, rotate=10.0, gain=0.1, shift=0.05)
    config.checkpoint.every_steps = 2
    config.log_every = 4
    return config


# --- frozen means frozen ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def frozen_run(prepared, tmp_path_factory):
    """The values before and after 51 steps of AdamW with weight decay, clipping and EMA; only stage 4 learns."""
    config = small.quick_config(prepared)
    config.preset = "stage4"
    config.epochs = 17.0
    config.optimizer.update(weight_decay=0.1, clip_norm=1.0, ema_decay=0.99)
    config.checkpoint.every_steps = 51
    config.eval.split = "none"
    workdir = tmp_path_factory.mktemp("frozen")
    train(config, workdir)
    params, stats = Network(build(read_experiment(config).model, "tiny", 3, seed=config.seed)).init()
    before = {"params": params, "ema": params, "batch_stats": stats}
    leaves = jax.tree_util.tree_leaves_with_path(before)
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in leaves}, saved(workdir, 51)


@pytest.mark.parametrize("kind", ["['params']", "['ema']", "['batch_stats']"])
def test_frozen_values_do_not_change_by_a_bit_in_fifty_steps(frozen_run, kind):
    before, after = frozen_run
    frozen = [
        k for k in after if k.startswith(kind) and not any(part in k for part in ("['head/", "['stage4/"))
    ]
    assert len(frozen) >= 16
    assert [k for k in frozen if before[k].tobytes() != after[k].tobytes()] == []


def test_learning_values_do_change(frozen_run):
    before, after = frozen_run
    learning = [k for k in before if "['head/" in k or "['stage4/" in k]
    assert any("batch_stats" in k for k in learning)
    assert [k for k in learning if (before[k] == after[k]).all()] == []


def test_no_optimizer_state_is_allocated_for_frozen_parameters(frozen_run):
    after = frozen_run[1]
    moments = [k for k in after if k.startswith("['opt_state']") and after[k].ndim]
    assert moments and all("head/" in k or "stage4/" in k for k in moments)


@pytest.mark.parametrize("data, fsdp", [(1, 1), pytest.param(2, 2, marks=pytest.mark.slow)])
def test_gradual_unfreezing_starts_at_its_step_and_keeps_the_other_moments(
    prepared, tmp_path, monkeypatch, data, fsdp
):
    monkeypatch.setattr("osteojax.devices.mesh.SMALLEST_SPLIT", 64)
    config = on(small.quick_config(prepared), data, fsdp)
    config.groups = (
        {"name": "head", "pattern": "head/.*"},
        {"name": "stage4", "pattern": "stage4/.*", "unfreeze_step": 4, "lr_factor": 0.1},
        {"name": "rest", "pattern": ".*", "frozen": True},
    )
    config.checkpoint.update(every_steps=1, keep=100)
    train(config, tmp_path)
    at = {step: saved(tmp_path, step) for step in (3, 4, 5)}
    stage4 = [k for k in at[4] if "stage4" in k]
    assert stage4 and not any("opt_state" in k for k in stage4)
    assert [k for k in stage4 if at[3][k].tobytes() != at[4][k].tobytes()] == []
    assert any("stage4" in k and "opt_state" in k for k in at[5])
    assert all((at[4][k] != at[5][k]).any() for k in stage4)
    counts = {k: int(v) for k, v in at[5].items() if k.endswith("['count']")}
    assert sorted(counts.values()) == [1, 5]


# --- resuming ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "killed_after", [pytest.param(1, marks=pytest.mark.slow), 3, pytest.param(4, marks=pytest.mark.slow)]
)
def test_a_run_that_dies_and_resumes_is_the_same_run(reference, tmp_path, monkeypatch, killed_after):
    config, whole = reference

    class Killed(Exception):
        pass

    original, calls = engine.to_devices, iter(range(100))

    def dying(batch, sharding):
        if "label" in batch and next(calls) == killed_after:
            raise Killed
        return original(batch, sharding)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "to_devices", dying)
        with pytest.raises(Killed):
            train(config, tmp_path)
    train(config, tmp_path)
    assert metrics_of(tmp_path) == metrics_of(whole)
    assert_same_bits(saved(tmp_path), saved(whole))


def test_a_finished_run_started_again_says_so_and_changes_nothing(reference, caplog):
    config, workdir = reference
    before = metrics_of(workdir)
    caplog.set_level("INFO")
    train(config, workdir)
    assert "complete" in caplog.text and metrics_of(workdir) == before


def damage_bit(folder):
    victim = max((p for p in (folder / "params").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)


def damage_truncate(folder):
    victim = max((p for p in (folder / "params").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    victim.write_bytes(victim.read_bytes()[:100])


def damage_record(folder):
    (folder / "record" / "metadata").write_text('{"step": 6, "bes')


@pytest.mark.parametrize(
    "damage",
    [damage_bit, *(pytest.param(one, marks=pytest.mark.slow) for one in (damage_truncate, damage_record))],
)
def test_a_damaged_newest_checkpoint_is_set_aside_and_the_one_before_is_used(
    reference, tmp_path, caplog, damage
):
    config, whole = reference
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    damage(workdir / "checkpoints" / "6")
    train(config, workdir)
    assert "going back" in caplog.text
    assert metrics_of(workdir) == metrics_of(whole)
    assert_same_bits(saved(workdir), saved(whole))
    assert len(list((workdir / "damaged").iterdir())) == 1


def test_changing_the_config_of_a_started_run_names_the_keys(reference):
    config, workdir = reference
    changed = config.copy_and_resolve_references()
    changed.optimizer.learning_rate = 0.5
    changed.data.batch_size = 3
    with pytest.raises(
        UserError, match=r"data.batch_size: 8 -> 3.*optimizer.learning_rate: 0.001 -> 0.5.*--force"
    ):
        train(changed, workdir)


@pytest.mark.slow
def test_forcing_goes_on_with_the_new_config(reference, tmp_path):
    config, whole = reference
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    longer = config.copy_and_resolve_references()
    longer.epochs = 3.0
    train(longer, workdir, force=True)
    assert json.loads(metrics_of(workdir).splitlines()[-1])["step"] == 9


def test_other_data_in_the_same_place_is_refused(reference, tmp_path):
    config, workdir = reference
    changed = config.copy_and_resolve_references()
    changed.data.dir = str(
        small.write_dataset(tmp_path / "other", {"train": 22, "val": 7, "test": 11}, seed=1)
    )
    with pytest.raises(UserError, match="dataset_fingerprint"):
        train(changed, workdir)


# --- devices -------------------------------------------------------------------------------------------------------


def on(config, data, fsdp=1):
    moved = config.copy_and_resolve_references()
    moved.mesh.update(data=data, fsdp=fsdp)
    return moved


@pytest.mark.parametrize("data, fsdp", [pytest.param(4, 1, marks=pytest.mark.slow), (2, 2)])
def test_devices_and_layouts_agree(reference, tmp_path, monkeypatch, data, fsdp):
    config, whole = reference
    monkeypatch.setattr("osteojax.devices.mesh.SMALLEST_SPLIT", 64)  # so that even this network is split
    train(on(config, data, fsdp), tmp_path)
    # Sums in another order: 1e-4 after six steps of AdamW, whose first steps magnify relative differences.
    assert_close(
        saved(tmp_path, items=("params", "batch_stats")), saved(whole, items=("params", "batch_stats")), 1e-4
    )


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param(((2, 2, 2), (1, 1, 6)), marks=pytest.mark.slow),
        pytest.param(((4, 2, 2), (1, 1, 4), (2, 2, 6)), marks=pytest.mark.slow),
    ],
)
def test_checkpoints_restore_on_other_numbers_of_devices(prepared, tmp_path, monkeypatch, parts):
    monkeypatch.setattr("osteojax.devices.mesh.SMALLEST_SPLIT", 64)
    config = everything(prepared)
    config.optimizer.schedule = (
        "constant"  # a schedule over the whole run would see that the parts are shorter
    )
    train(config, tmp_path / "whole")
    for data, fsdp, steps in parts:
        part = on(config, data, fsdp)
        part.epochs = steps / 3
        train(part, tmp_path / "parts", force=True)
    whole, restored = (
        saved(tmp_path / name, 6, ("params", "batch_stats", "opt_state")) for name in ("whole", "parts")
    )
    assert_close(restored, whole, 1e-4)


@pytest.mark.slow  # test_norm.py has the layer's statistics by device, test_start.py that the mesh is looked at
def test_batch_norm_per_device_differs_from_the_global_one(prepared, tmp_path):
    config = on(small.quick_config(prepared), 2)
    config.epochs = 1.0
    train(config, tmp_path / "global")
    config.model.batch_norm = "per_device"
    train(config, tmp_path / "local")
    both = [saved(tmp_path / name, 3, ("batch_stats",)) for name in ("global", "local")]
    assert any(not np.allclose(both[0][k], both[1][k], atol=1e-4) for k in both[0])


def test_an_impossible_mesh_is_a_clear_error(quick, tmp_path):
    quick.mesh.fsdp = 3
    with pytest.raises(UserError, match=r"mesh.fsdp=3 does not divide"):
        train(quick, tmp_path)


# --- what can go wrong, and what is written ------------------------------------------------------------------------


def test_a_loss_that_is_no_number_stops_the_run_with_the_steps(quick, tmp_path):
    quick.optimizer.update(name="sgd", learning_rate=1e30, clip_norm=0.0)
    quick.epochs = 20.0
    with pytest.raises(engine.Diverged, match=r"loss is nan at step \d+ \(checked: \d+ to \d+"):
        train(quick, tmp_path)


def test_the_best_checkpoint_survives_the_newer_ones(quick, tmp_path):
    quick.epochs = 5.0
    quick.checkpoint.keep = 1
    # Learning rate zero: every evaluation is equal, so that the first stays the best.
    quick.optimizer.learning_rate = 0.0
    quick.preset = "head"
    train(quick, tmp_path)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.best_step() == 3 and checkpoints.steps() == [3, 15]
    checkpoints.close()


def test_early_stopping(quick, tmp_path):
    quick.epochs = 9.0
    quick.optimizer.learning_rate = 0.0
    quick.preset = "head"
    quick.best.patience = 2
    train(quick, tmp_path)
    assert json.loads(metrics_of(tmp_path).splitlines()[-1])["step"] == 9


def test_the_run_writes_down_what_it_did(reference):
    _, workdir = reference
    lines = [json.loads(line) for line in metrics_of(workdir).splitlines()]
    assert [line["step"] for line in lines] == [3, 4, 6, 6]  # the last window is not full, and is written
    assert {"train/loss", "train/learning_rate/head", "train/gradient_norm/stem"} <= set(lines[1])
    assert {"train/update_norm/stage4", "train/accuracy"} <= set(lines[1])
    assert {"val/cross_entropy", "val/accuracy", "val/balanced_accuracy", "val/macro_f1"} <= set(lines[3])
    timing = [json.loads(line) for line in (workdir / "timing.jsonl").read_text().splitlines()]
    assert timing[0]["compile_seconds"] > 0 and timing[0]["step_flops"] > 0
    assert {"examples_per_second", "step_seconds", "data_wait_seconds"} <= set(timing[1])
    run = json.loads((workdir / "run.json").read_text())[0]
    assert (
        run["origin"] == {"architecture": "tiny", "init": "random"}
        and run["versions"]["jax"] == jax.__version__
    )
    assert next((workdir / "tensorboard").glob("events.*")).stat().st_size > 0


@pytest.mark.slow
def test_profile_writes_a_trace(quick, tmp_path):
    quick.epochs = 6.0
    quick.eval.split = "none"
    quick.checkpoint.every_steps = 18
    train(quick, tmp_path, profile=True)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_training_without_a_validation_split(quick, tmp_path, caplog):
    quick.data.dir = str(small.write_dataset(tmp_path / "data", {"train": 10, "test": 4}))
    with pytest.raises(UserError, match=r"eval.split='val'.*train \(10\), test \(4\).*eval.split=none"):
        train(quick, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    quick.eval.split = "none"
    train(quick, tmp_path / "run")
    assert "tracked_metric" not in caplog.text
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    assert checkpoints.best_step() == 4
    checkpoints.close()


# --- processes ------------------------------------------------------------------------------------------------------


@pytest.fixture
def long_run(prepared, tmp_path):
    config = everything(prepared)
    config.epochs = 10.0
    config.log_every = 1
    config.checkpoint.every_steps = 3
    return config, small.write_config(tmp_path / "config.py", config)


def test_sigterm_saves_and_exits_with_its_own_status(long_run, tmp_path):
    config, _ = long_run
    config.epochs = 5.0
    config.eval.every_steps = config.checkpoint.every_steps = 10
    file = small.write_config(tmp_path / "config.py", config)
    train(config, tmp_path / "whole")
    process = subprocess.Popen(**command(file, tmp_path / "run"))
    wait_for_step(tmp_path / "run", 4, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == EXIT_PREEMPTED
    assert len(metrics_of(tmp_path / "run").splitlines()) < len(metrics_of(tmp_path / "whole").splitlines())
    train(config, tmp_path / "run")
    assert metrics_of(tmp_path / "run") == metrics_of(tmp_path / "whole")
    assert_same_bits(saved(tmp_path / "run"), saved(tmp_path / "whole"))


@pytest.mark.slow
def test_killed_at_twenty_random_steps_it_is_the_same_run_to_the_bit(long_run, tmp_path):
    config, file = long_run
    train(config, tmp_path / "whole")
    draw = random.Random(0)
    for trial in range(20):
        workdir = tmp_path / f"run{trial}"
        process = subprocess.Popen(**command(file, workdir))
        wait_for_step(workdir, draw.randint(1, 29), process)
        time.sleep(draw.uniform(0, 0.05))
        process.kill()
        process.wait()
        subprocess.run(**command(file, workdir), check=True)
        assert metrics_of(workdir) == metrics_of(tmp_path / "whole"), trial
        assert_same_bits(saved(workdir), saved(tmp_path / "whole"))


@pytest.mark.parametrize(
    "steps, layouts",
    [
        (6, {"one": 1}),
        pytest.param(20, {"one": 1, "four": 4}, marks=pytest.mark.slow),
    ],
)
def test_two_processes_of_two_devices_equal_one_process(prepared, tmp_path, steps, layouts):
    config = small.quick_config(prepared)
    config.epochs = steps / 3
    # Plain SGD: AdamW's first steps are g / |g|, which turns rounding of small gradients into whole steps.
    config.optimizer.update(name="sgd", learning_rate=1e-2)
    config.augment.update(flip=True, rotate=10.0)
    runs = {}
    for name, devices in layouts.items():
        train(on(config, devices), tmp_path / name)
        runs[name] = saved(tmp_path / name, steps)
    file = small.write_config(tmp_path / "config.py", on(config, -1))
    for process in launch(file, tmp_path / "hosts", 2, 2):
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    hosts = saved(tmp_path / "hosts", steps)
    for name in layouts:
        assert_close(hosts, runs[name], 1e-5)
    assert len(metrics_of(tmp_path / "hosts").splitlines()) == len(metrics_of(tmp_path / "one").splitlines())


@pytest.mark.slow
def test_sigterm_to_one_of_two_processes_saves_and_stops_both(prepared, tmp_path):
    config = on(everything(prepared), -1)
    config.epochs = 200.0
    config.log_every = 1
    file = small.write_config(tmp_path / "config.py", config)
    processes = launch(file, tmp_path / "run", 2, 1)
    wait_for_step(tmp_path / "run", 3, processes[0])
    processes[1].send_signal(signal.SIGTERM)
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == EXIT_PREEMPTED, errors
    assert saved(tmp_path / "run")


def test_a_host_that_does_not_come_is_named(prepared, tmp_path):
    file = small.write_config(tmp_path / "config.py", on(small.quick_config(prepared), -1))
    flags = (f"--coordinator=127.0.0.1:{free_port()}", "--processes=2", "--process_id=0", "--timeout=5")
    done = subprocess.run(
        **command(file, tmp_path / "run", *flags), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2 and "process 1" in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_the_average_is_the_warmed_up_one_of_parameters_and_statistics(quick, tmp_path):
    quick.preset = "stage4"
    quick.optimizer.update(ema_decay=0.25, learning_rate=1e-2)
    quick.checkpoint.update(every_steps=1, keep=100)
    train(quick, tmp_path)
    at = {step: saved(tmp_path, step) for step in range(1, 7)}
    network = Network(build(read_experiment(quick).model, "tiny", 3, seed=quick.seed))
    start = dict(zip(("params", "batch_stats"), network.init(), strict=True))
    compared = 0
    for kind, average in (("params", "ema"), ("batch_stats", "ema_batch_stats")):
        for path, first in start[kind].items():
            expected = np.asarray(first, np.float64)
            for step in range(1, 7):
                decay = min(0.25, step / (9 + step))  # (1 + t) / (10 + t) at t = step - 1
                expected = decay * expected + (1 - decay) * at[step][f"['{kind}']['{path}']"]
                found = at[step][f"['{average}']['{path}']"]
                np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7, err_msg=path)
                if not path.startswith(("head/", "stage4/")):
                    assert found.tobytes() == np.asarray(first).tobytes(), path
            compared += 1
    assert compared > 20


def test_nan_is_never_the_best():
    nan = float("nan")
    assert not is_better("max", nan, None) and not is_better("min", nan, 1.0)
    assert is_better("max", 0.1, None) and is_better("min", 5.0, nan)
    best = BestSoFar("accuracy", "max", 0)
    for step, value in ((1, nan), (2, 0.5), (3, nan), (4, 0.4)):
        best.update(step, {"accuracy": value})
    assert (best.best_step, best.best_value) == (2, 0.5)
