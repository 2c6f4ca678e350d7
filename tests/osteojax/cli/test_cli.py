import subprocess
import sys

import pytest

from osteojax.cli.main import make_parser, run

COMMANDS = (
    "prep",
    "audit",
    "models",
    "convert",
    "show-augment",
    "train",
    "train-denoiser",
    "probe",
    "baselines",
    "evaluate",
    "predict",
    "compare",
    "pool",
    "report",
    "export",
    "sweep",
    "train-segmenter",
    "compile-check",
)


def test_every_command_is_there():
    assert set(make_parser()._subparsers._group_actions[0].choices) == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        run([command, "--help"])
    assert stop.value.code == 0 and "usage: osteojax" in capsys.readouterr().out


def test_help_does_not_import_jax():
    code = (
        "import sys; from osteojax.cli.main import make_parser; make_parser(); sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["train", "--config=no.py", "--workdir=w"], "config file not found: no.py"),
        (["train", "--config=configs/train/demo.py", "--workdir=w"], "no prepared dataset in"),
        (["train", "--config=configs/train/demo.py", "--workdir=w", "--config.epoch=1"], "epoch"),
        (["prep", "--source=/nowhere", "--out=o"], "/nowhere"),
        (["convert", "--weights=/nowhere.pth", "--arch=resnet50", "--out=o.safetensors"], "/nowhere.pth"),
        (["convert", "--weights=/nowhere.pth", "--arch=resnet51", "--out=o.safetensors"], "resnet51"),
        (["models", "resnet51"], "no classifier 'resnet51'"),
        (["models", "--size=31"], "at least 32"),
    ],
)
def test_users_errors_are_one_clear_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith(f"osteojax {arguments[0]}: ") and message in last


def test_unknown_flags_are_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        run(["evaluate", "--workdir=w", "--split_=test"])
    assert stop.value.code == 2 and "--split_" in capsys.readouterr().err
