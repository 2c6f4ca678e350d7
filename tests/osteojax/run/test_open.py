"""From a workdir to a network that answers, and to clear words where it cannot."""

import json
import os
import shutil
import subprocess

import jax
import numpy as np
import pytest
import small

from osteojax.cli.main import run
from osteojax.data.dataset import PreparedDataset
from osteojax.errors import UserError
from osteojax.evaluate.evaluate import evaluate_run
from osteojax.run import inference
from osteojax.run.open import open_run
from osteojax.train.loop import train


@pytest.fixture(scope="module")
def trained(prepared, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained")
    train(small.quick_config(prepared), workdir)
    return workdir


@pytest.fixture
def copy(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def test_an_opened_run_answers_as_evaluation_does(copy):
    evaluate_run(copy)
    run_ = open_run(copy)
    source = run_.dataset().source("test")
    logits = run_.logits(source)
    probabilities = np.asarray(jax.nn.softmax(logits.astype(np.float64), axis=-1))
    rows = (copy / "eval" / "test" / "predictions.csv").read_text().splitlines()[1:]
    written = np.asarray([[float(cell) for cell in row.split(",")[-3:]] for row in rows])
    np.testing.assert_allclose(probabilities, written, atol=1e-6)
    assert run_.class_names == list(small.CLASSES) and run_.step == run_.best_step
    one = run_.forward(np.stack([source[0]["image"]] * 8))
    np.testing.assert_allclose(one[0], logits[0], atol=1e-5)


@pytest.mark.parametrize("step", ["³", "٣", "-1", "3.0", "", "first", "7", "0x3"])
def test_a_step_that_is_none_lists_those_that_there_are(trained, step):
    with pytest.raises(UserError, match="there are best, last, 3, 6"):
        open_run(trained, step)


def test_last_is_the_newest_and_numbers_are_themselves(trained):
    assert open_run(trained, "last").step == 6
    assert open_run(trained, 3).step == 3 and open_run(trained, "3").best_step == open_run(trained).step


def test_last_is_not_the_best_where_nothing_got_better(quick, tmp_path):
    quick.preset = "head"
    quick.optimizer.learning_rate = 0.0
    train(quick, tmp_path)
    assert open_run(tmp_path, "last").step == 6 and open_run(tmp_path, "best").step == 3


def test_a_damaged_best_is_told_and_not_replaced_in_silence(copy):
    best = open_run(copy).step
    (copy / "checkpoints" / str(best) / "record" / "metadata").write_text("{")
    other = {3: 6, 6: 3}[best]
    if best == 6:  # the newest record, which names the best, is the damaged one: the one before is believed
        assert open_run(copy).step == 3
        return
    with pytest.raises(UserError, match=rf"checkpoints/{best} .*choose another with --step"):
        open_run(copy)
    assert open_run(copy, other).step == other


def test_a_best_that_is_lost_is_told(copy):
    best = open_run(copy).step
    shutil.rmtree(copy / "checkpoints" / str(best))
    if best == 3:
        with pytest.raises(UserError, match=r"best checkpoint, of step 3, is not in .*--step: 6"):
            open_run(copy)


def test_a_flipped_bit_of_the_parameters_is_told(copy):
    for victim in (copy / "checkpoints").rglob("params/**/d/*"):
        data = bytearray(victim.read_bytes())
        data[len(data) // 2] ^= 1
        victim.write_bytes(data)
    with pytest.raises(UserError, match="choose another with --step"):
        open_run(copy)


def test_every_row_goes_to_its_own_example_whatever_the_order_on_the_mesh(trained, monkeypatch):
    run_ = open_run(trained)
    source = run_.dataset().source("test")
    expected = run_.logits(source)
    original = inference.to_devices

    def shuffled(batch, sharding):
        order = np.random.default_rng(0).permutation(len(batch["index"]))
        return original({key: value[order] for key, value in batch.items()}, sharding)

    monkeypatch.setattr(inference, "to_devices", shuffled)
    np.testing.assert_allclose(run_.logits(source), expected, atol=1e-5)


def test_an_example_that_is_counted_twice_is_a_defect(trained, monkeypatch):
    run_ = open_run(trained)
    original = inference.eval_iterator
    monkeypatch.setattr(
        inference,
        "eval_iterator",
        lambda source, plan: [*original(source, plan), next(original(source, plan))],
    )
    with pytest.raises(AssertionError, match="not counted once"):
        run_.logits(run_.dataset().source("test"))


def test_results_go_where_out_says(copy, tmp_path, capsys):
    out = tmp_path / "elsewhere"
    assert run(["evaluate", f"--workdir={copy}", f"--out={out}"]) == 0
    assert json.loads((out / "metrics.json").read_text())["n"] == 11
    assert not (copy / "eval").exists()
    (tmp_path / "file").write_text("")
    assert run(["evaluate", f"--workdir={copy}", f"--out={tmp_path / 'file'}"]) == 2
    assert "Traceback" not in (printed := capsys.readouterr().err) and str(tmp_path / "file") in printed


def test_cells_of_predictions_are_no_formulas(copy, tmp_path):
    """A patient called =1+1 is text to a spreadsheet."""
    from data_prep.shards import Example, write_shards

    examples = [Example(f"{k:016x}", f"{k}.png", small.CLASSES[k % 3], "=1+1", "=1+1") for k in range(4)]
    config = open_run(copy).config
    original = PreparedDataset.open(config.data.dir)
    write_shards(
        tmp_path / "data",
        {"test": examples},
        small.generated_image,
        image_size=small.SIZE,
        class_names=small.CLASSES,
        description={
            "preprocessing": original.preprocessing,
            "class_names": list(small.CLASSES),
            "fingerprint": "formulas",
            "seed": 0,
        },
    )
    evaluate_run(copy, data_dir=str(tmp_path / "data"), out=tmp_path / "out")
    assert all(
        row.split(",")[1] == "'=1+1"
        for row in (tmp_path / "out" / "predictions.csv").read_text().splitlines()[1:]
    )


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 300 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "none", disk]).returncode:
        pytest.skip("no right to mount a small disk")
    yield disk
    subprocess.run(["umount", "-l", disk], check=False)


def test_a_disk_that_is_full_stops_training_with_one_sentence(prepared, small_disk, tmp_path, capfd):
    config = small.quick_config(prepared)
    config.checkpoint.update(keep=100, every_steps=1)
    config.epochs = 10.0
    file = small.write_config(tmp_path / "config.py", config)
    assert run(["train", f"--config={file}", f"--workdir={small_disk / 'run'}"]) == 2
    printed = capfd.readouterr().err
    assert "no space is left" in printed.strip().splitlines()[-1] and "Traceback" not in printed
