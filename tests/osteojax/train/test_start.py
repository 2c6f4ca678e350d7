"""Starting again: on what a run was started with, on what was forced, on what is damaged, and beside another run."""

import json
import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import small
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from osteojax.cli.main import run
from osteojax.errors import UserError
from osteojax.evaluate.evaluate import evaluate_run
from osteojax.run import checkpoint as checkpoint_module
from osteojax.run.checkpoint import Checkpoints, UnreadableCheckpoint
from osteojax.run.workdir import hold
from osteojax.train import loop as engine
from osteojax.train.loop import train


def newest(workdir):
    """Step -> record and arrays of the newest checkpoint."""
    checkpoints = Checkpoints(workdir / "checkpoints")
    step = checkpoints.steps()[-1]
    record = checkpoints.record(step)
    checkpoints.close()
    return step, record


def steps_of(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit())


@pytest.fixture(scope="module")
def finished(prepared, tmp_path_factory):
    """Six steps of AdamW on stage 4 and the head, with checkpoints at 3 and 6."""
    workdir = tmp_path_factory.mktemp("finished")
    config = small.quick_config(prepared)
    config.preset = "stage4"
    train(config, workdir)
    return config, workdir


@pytest.fixture
def again(finished, tmp_path):
    """A copy of the finished run, and its config to change."""
    config, whole = finished
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    return config.copy_and_resolve_references(), workdir


# --- forcing -----------------------------------------------------------------------------------------------------


def forced(name, config):
    """Changes the config in one way, and runs for one epoch more."""
    config.epochs = 3.0
    if name == "preset":
        config.preset = "stage3+"
    elif name == "narrower preset":
        config.preset = "head"
    elif name == "optimizer":
        config.optimizer.name = "sgd"
    elif name == "average on":
        config.optimizer.ema_decay = 0.9
    elif name == "groups":
        config.groups = ({"name": "head", "pattern": "head/.*"}, {"name": "body", "pattern": ".*"})
    elif name == "batch size":
        config.data.batch_size = 5


@pytest.mark.parametrize(
    "change",
    [
        "preset",
        *(
            pytest.param(one, marks=pytest.mark.slow)
            for one in ("narrower preset", "optimizer", "average on", "groups", "batch size")
        ),
    ],
)
def test_a_forced_change_goes_on_from_the_newest_checkpoint(again, change, caplog):
    config, workdir = again
    forced(change, config)
    with pytest.raises(UserError, match="--force"):
        train(config, workdir)
    caplog.set_level("INFO")
    train(config, workdir, force=True)
    assert not (workdir / "damaged").exists() and "resuming at step 6" in caplog.text
    assert steps_of(workdir)[-1] > 6
    assert json.loads((workdir / "config.json").read_text())["epochs"] == 3.0


def test_what_fits_is_carried_over_and_what_does_not_is_said(again, caplog):
    config, workdir = again
    forced("preset", config)
    config.optimizer.learning_rate = 0.0
    config.checkpoint.every_steps = 1
    config.epochs = 7 / 3
    before = arrays_of(workdir)
    train(config, workdir, force=True)
    after = arrays_of(workdir)
    # At a learning rate of zero the parameters must be those of the checkpoint, to the bit.
    assert [
        k for k in before["params"] if before["params"][k].tobytes() != after["params"][k].tobytes()
    ] == []
    counts = {k: int(v) for k, v in after["opt_state"].items() if k.endswith("['count']")}
    of_group = {k.split("'")[3]: v for k, v in counts.items()}
    assert of_group["head"] == of_group["stage4"] == 7 and of_group["stage3"] == 1
    assert "starts afresh at step 6 for: stage3" in caplog.text


def arrays_of(workdir):
    import orbax.checkpoint as ocp

    folder = workdir / "checkpoints" / str(steps_of(workdir)[-1])
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    trees = {}
    with ocp.StandardCheckpointer() as reader:
        for name in ("params", "opt_state"):
            tree = reader.metadata(folder / name).item_metadata.tree
            like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), tree)
            restored = reader.restore(folder / name, like)
            trees[name] = {
                jax.tree_util.keystr(path): np.asarray(x)
                for path, x in jax.tree_util.tree_leaves_with_path(restored)
            }
    return trees


@pytest.mark.slow
def test_an_average_that_is_switched_off_is_gone(again):
    config, workdir = again
    config.epochs = 3.0
    config.optimizer.ema_decay = 0.9
    train(config, workdir, force=True)
    assert "ema" in newest(workdir)[1]["arrays"]
    config.epochs, config.optimizer.ema_decay = 4.0, 0.0
    train(config, workdir, force=True)
    assert "ema" not in newest(workdir)[1]["arrays"]


@pytest.mark.slow
def test_a_forced_ranking_is_the_one_in_force(again):
    config, workdir = again
    assert newest(workdir)[1]["best"]["metric"] == "cross_entropy"
    config.best.update(metric="accuracy", patience=1)
    config.epochs = 9.0
    config.optimizer.learning_rate = 0.0
    train(config, workdir, force=True)
    step, record = newest(workdir)
    best = record["best"]
    assert (best["metric"], best["mode"], best["patience"]) == ("accuracy", "max", 1)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    accuracy = {line["step"]: line["val/accuracy"] for line in lines if "val/accuracy" in line}
    first_best = min(accuracy, key=lambda at: (-accuracy[at], at))
    assert best["best_step"] == first_best
    assert step < 27, "patience 1 must stop a run that does not improve"


def test_a_ranking_that_can_change_nothing_any_more_is_refused(again):
    config, workdir = again
    config.best.metric = "accuracy"
    with pytest.raises(UserError, match=r"complete at step 6: best.\* changes nothing"):
        train(config, workdir, force=True)
    assert json.loads((workdir / "config.json").read_text())["best"]["metric"] == "cross_entropy"


@pytest.mark.parametrize(
    "key, value",
    [("model.name", "resnet18"), ("init", "imagenet"), ("weights", "other.npz"), ("model.fallback", "x")],
)
def test_what_the_first_start_settled_cannot_be_forced(again, key, value):
    config, workdir = again
    with config.unlocked():
        section = config
        *parents, last = key.split(".")
        for name in parents:
            section = section[name]
        section[last] = value
    before = (workdir / "config.json").read_bytes()
    with pytest.raises(UserError, match=rf"{key}.*--force neither"):
        train(config, workdir, force=True)
    assert (workdir / "config.json").read_bytes() == before and steps_of(workdir) == [3, 6]


def test_settings_without_effect_need_no_force(again):
    config, workdir = again
    config.log_every, config.data.threads, config.eval.batch_size = 1, 1, 3
    config.checkpoint.update(keep=5, every_steps=1)
    config.mesh.update(data=2)
    train(config, workdir)


def test_the_mesh_has_an_effect_where_batch_norm_is_per_device(prepared, tmp_path):
    config = small.quick_config(prepared)
    config.model.batch_norm = "per_device"
    config.epochs = 1.0
    train(config, tmp_path)
    config.mesh.data = 2
    with pytest.raises(UserError, match=r"mesh.data: 1 -> 2"):
        train(config, tmp_path)


# --- what cannot start leaves nothing ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "override, message",
    [
        ("optimizer.name=shampoo", "no optimizer 'shampoo'; there are adam, adamw"),
        ("optimizer.schedule=zigzag", "no schedule 'zigzag'"),
        ("loss.name=hinge", "no loss 'hinge'; there are coral, cross_entropy"),
        ("best.metric=accuracies", "no metric 'accuracies'; there are"),
        ("best.mode=up", "best.mode is 'up'; it must be one of 'auto', 'max', 'min'"),
        ("preset=stage9", "no preset 'stage9'"),
        ("optimizer.learning_rate=-1.0", "optimizer.learning_rate is -1.0; it must be a number at least 0"),
        ("optimizer.ema_decay=1.5", "optimizer.ema_decay is 1.5"),
        ("optimizer.b1=1.0", "optimizer.b1 is 1.0"),
        ("optimizer.warmup_steps=99", "optimizer.warmup_steps=99 leaves nothing of the 6 steps"),
        ("best.patience=-1", "best.patience is -1"),
        ("data.batch_size=0", "data.batch_size is 0; it must be a whole number at least 1"),
        ("eval.batch_size=0", "eval.batch_size is 0"),
        ("seed=-1", "seed is -1"),
        ("seed=4294967296", "seed is 4294967296"),
        ("epochs=0.0", "epochs is 0.0; it must be a number above 0"),
        ("log_every=0", "log_every is 0"),
        ("checkpoint.keep=0", "checkpoint.keep is 0"),
        ("mesh.data=0", "mesh.data=0"),
        ("augment.rotate=400.0", "augment.rotate is 400.0"),
        ("loss.label_smoothing=1.0", "loss.label_smoothing is 1.0"),
        ("model.dtype=float8", "model.dtype is 'float8'; it must be one of 'float32', 'bfloat16'"),
        ("model.name=resnet51", "resnet51"),
        ("eval.split=validation", "eval.split='validation'"),
        (
            "groups=({'name': 'a', 'pattern': 'head/.*'}, {'name': 'b', 'pattern': '.*', 'unfreeze_step': 6})",
            "unfreeze_step=6 is behind the end",
        ),
        ("groups=({'name': 'a', 'pattern': '.*', 'frozen': 'False'},)", "groups[0].frozen is 'False'"),
    ],
)
def test_a_run_that_cannot_start_is_one_sentence_and_claims_nothing(
    prepared, tmp_path, capsys, override, message
):
    file = small.write_config(tmp_path / "config.py", small.quick_config(prepared))
    workdir = tmp_path / "run"
    assert run(["train", f"--config={file}", f"--workdir={workdir}", f"--config.{override}"]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in last and last.startswith("osteojax train: ")
    assert not (workdir / "config.json").exists()


# --- damage, and what only looks like it ---------------------------------------------------------------------------


class Flaky:
    """Orbax's restore, failing the first few times."""

    def __init__(self, monkeypatch, times, error):
        self.left, original = times, checkpoint_module.ocp.CheckpointManager.restore

        def restore(manager, *arguments, **keywords):
            if self.left:
                self.left -= 1
                raise error
            return original(manager, *arguments, **keywords)

        monkeypatch.setattr(checkpoint_module.ocp.CheckpointManager, "restore", restore)
        monkeypatch.setattr(checkpoint_module, "_SECONDS_BETWEEN", 0.0)


PASSING = (
    OSError(5, "Input/output error"),
    PermissionError(13, "Permission denied"),
    OSError(24, "Too many open files"),
    ValueError("UNAVAILABLE: Error reading chunk [source locations='...']"),
    MemoryError(),
)


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_a_passing_read_error_costs_nothing(again, monkeypatch, error):
    config, workdir = again
    config.epochs = 3.0
    Flaky(monkeypatch, 2, error)
    train(config, workdir, force=True)
    assert not (workdir / "damaged").exists() and steps_of(workdir)[-1] == 9


def test_a_lasting_read_error_stops_with_everything_in_its_place(again, monkeypatch):
    config, workdir = again
    Flaky(monkeypatch, 100, OSError(5, "Input/output error"))
    with pytest.raises(
        UnreadableCheckpoint, match=r"checkpoints/6 cannot be read just now.*nothing was changed"
    ):
        train(config, workdir)
    assert steps_of(workdir) == [3, 6] and not (workdir / "damaged").exists()


def edit_record(workdir, step, change):
    path = workdir / "checkpoints" / str(step) / "record" / "metadata"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.update(dataset_fingerprint="another"),
        lambda record: record["best"].update(best_step=3),
        lambda record: record.update(pending=[{"loss": 1.0}]),
        lambda record: record.pop("origin"),
        lambda record: record["arrays"]["params"].popitem(),
        lambda record: record.clear(),
    ],
    ids=["a value", "the best", "pending", "no origin", "an array less", "empty"],
)
def test_a_record_that_was_changed_is_damage(again, change, caplog):
    config, workdir = again
    edit_record(workdir, 6, change)
    train(config, workdir)
    assert "going back" in caplog.text and len(list((workdir / "damaged").iterdir())) == 1
    assert steps_of(workdir) == [3, 6]


@pytest.mark.parametrize(
    "text, step",
    [
        ("", 6),
        ("{", 3),
        *(pytest.param(*p, marks=pytest.mark.slow) for p in (("", 3), ("{", 6), ("[1]", 3), ("[1]", 6))),
    ],
)
def test_damaged_metrics_of_a_checkpoint_lose_nothing(again, step, text):
    config, workdir = again
    best = newest(workdir)[1]["best"]["best_step"]
    (workdir / "checkpoints" / str(step) / "metrics" / "metrics").write_text(text)
    assert evaluate_run(workdir)["checkpoint_step"] == best
    config.epochs, config.checkpoint.keep, config.optimizer.learning_rate = 4.0, 1, 0.0
    train(config, workdir, force=True)
    record = newest(workdir)[1]
    assert record["best"]["best_step"] in steps_of(workdir), "the best must outlive the newer ones"
    assert record["best"]["best_value"] == min(
        json.loads(line).get("val/cross_entropy", 9.0)
        for line in (workdir / "metrics.jsonl").read_text().splitlines()
    )


@pytest.mark.parametrize("name", ["checkpoints", "run.json", "config.json"])
def test_what_stands_in_the_place_of_a_file_or_folder_is_one_sentence(again, capsys, name):
    config, workdir = again
    victim = workdir / name
    if victim.is_dir():
        shutil.rmtree(victim)
        victim.write_text("")
    else:
        victim.unlink()
        victim.mkdir()
    file = small.write_config(workdir.parent / "config.py", config)
    assert run(["train", f"--config={file}", f"--workdir={workdir}"]) == 2
    assert str(victim) in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_damaged_run_json_is_kept_aside(again, caplog):
    config, workdir = again
    (workdir / "run.json").write_text('[{"started": "2026')
    train(config, workdir)
    assert len(json.loads((workdir / "run.json").read_text())) == 1
    assert len(list(workdir.glob("run.json.damaged-*"))) == 1 and "run.json is damaged" in caplog.text


@pytest.mark.parametrize("text", ["", "{", "[]", '{"epochs": "many"}', "\x00\xff"])
def test_a_damaged_config_json_is_no_traceback_and_no_way_round_the_check(again, text):
    config, workdir = again
    (workdir / "config.json").write_text(text)
    config.optimizer.learning_rate = 0.5
    with pytest.raises(UserError, match=r"learning_rate: 0.001 -> 0.5"):
        train(config, workdir)
    config.optimizer.learning_rate = 1e-3
    train(config, workdir)
    assert json.loads((workdir / "config.json").read_text())["optimizer"]["learning_rate"] == 1e-3


def test_a_lost_config_json_is_no_way_round_the_check(again):
    config, workdir = again
    (workdir / "config.json").unlink()
    config.data.batch_size = 3
    with pytest.raises(UserError, match=r"data.batch_size: 8 -> 3"):
        train(config, workdir)


# --- numbers that are none -----------------------------------------------------------------------------------------


def test_an_update_that_overflows_is_not_saved(quick, tmp_path):
    # The loss of step 1 is finite, its update is not: 1e38 times 1e3.
    quick.optimizer.update(name="sgd", clip_norm=0.0, learning_rate=1e38, momentum=0.0)
    quick.groups = ({"name": "all", "pattern": ".*", "lr_factor": 1e3},)
    quick.checkpoint.every_steps = 1
    quick.log_every = 1
    quick.eval.split = "none"
    with pytest.raises(engine.Diverged, match=r"not finite any more after step 1 .*not saved"):
        train(quick, tmp_path)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.steps() == []
    checkpoints.close()


# --- the log -------------------------------------------------------------------------------------------------------


def events_of(workdir):
    """(tag, step) of every scalar in all event files."""
    return [
        (value.tag, event.step)
        for path in sorted((workdir / "tensorboard").iterdir())
        for event in EventFileLoader(str(path)).Load()
        for value in event.summary.value
    ]


@pytest.mark.parametrize(
    "killed_after",
    [pytest.param(2, marks=pytest.mark.slow), 4, pytest.param(5, marks=pytest.mark.slow)],
)
def test_after_a_resume_no_step_is_told_twice(quick, tmp_path, monkeypatch, killed_after):
    quick.log_every = 1
    train(quick, tmp_path / "whole")

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
            train(quick, tmp_path / "run")
    train(quick, tmp_path / "run")

    found = [entry for entry in events_of(tmp_path / "run") if not entry[0].startswith(("compile", "step_"))]
    whole = [
        entry for entry in events_of(tmp_path / "whole") if not entry[0].startswith(("compile", "step_"))
    ]
    assert sorted(found) == sorted(whole)
    timing = [json.loads(line) for line in (tmp_path / "run" / "timing.jsonl").read_text().splitlines()]
    laps = [line["step"] for line in timing if "examples_per_second" in line]
    assert laps == sorted(set(laps)) == list(range(1, 7))


def test_early_stopping_writes_its_last_window(quick, tmp_path):
    quick.epochs, quick.log_every = 9.0, 100
    quick.optimizer.learning_rate, quick.preset, quick.best.patience = 0.0, "head", 2
    train(quick, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "train/loss" in line] == [9]


# --- one run at a time ---------------------------------------------------------------------------------------------


def test_a_second_start_on_one_workdir_is_refused_and_told_by_whom(quick, tmp_path):
    with (
        hold(tmp_path),
        pytest.raises(UserError, match=rf"another run is working in .*process {os.getpid()} on"),
    ):
        train(quick, tmp_path)
    train(quick, tmp_path)


def test_the_lock_of_a_killed_run_is_gone(tmp_path, quick):
    code = f"""
import time
from pathlib import Path
from osteojax.run.workdir import hold
with hold(Path({str(tmp_path)!r})):
    print("held", flush=True)
    time.sleep(100)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(UserError, match="another run is working"), hold(tmp_path):
        pass
    process.kill()
    process.wait()
    with hold(tmp_path):
        pass


def test_a_workdir_that_is_a_file_or_cannot_be_made(quick, tmp_path):
    (tmp_path / "file").write_text("")
    for workdir, message in (
        (tmp_path / "file", "is a file"),
        (tmp_path / "file" / "run", "Not a directory"),
    ):
        with pytest.raises(UserError, match=message):
            train(quick, workdir)
