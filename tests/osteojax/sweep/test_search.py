"""Searches by optuna: validation alone chooses, poor trials are stopped, a killed search goes on."""

import csv
import fcntl
import json
import runpy
import sys
from pathlib import Path

import pytest
import small

from osteojax import folds
from osteojax.cli.main import run
from osteojax.errors import UserError
from osteojax.sweep import search, space
from osteojax.train.experiment import read_experiment

SCRIPT = Path(small.__file__)
SEARCHES = SCRIPT.parents[2] / "configs" / "searches"

# In place of the command line: validation is best at a learning rate of 1e-3; the test split says the opposite.
FAKE = """
import json, math, runpy, signal, sys, time
from pathlib import Path

command, flags = sys.argv[1], dict(word.split("=", 1) for word in sys.argv[2:])
folder = Path(flags["--workdir"])
if command == "evaluate":
    (folder / "eval" / "test").mkdir(parents=True)
    (folder / "eval" / "test" / "metrics.json").write_text("{}")
    sys.exit(0)
config = runpy.run_path(flags["--config"])["get_config"]()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
rate = config.optimizer.learning_rate
value = 1 / (1 + (math.log10(rate) + 3) ** 2)
if rate > 5:
    sys.exit("no such rate")
with (folder / "starts").open("a") as file:
    file.write("started\\n")
with (folder / "metrics.jsonl").open("a") as file:
    for epoch in range(1, 4 if rate < 0.5 else 40):
        file.write(json.dumps({"step": epoch, "train/loss": 1.0}) + "\\n")
        line = {"step": epoch, "val/balanced_accuracy": value * (1 - 0.1 * epoch), "test/balanced_accuracy": 1 - value}
        file.write(json.dumps(line) + "\\n")
        file.flush()
        time.sleep(0.0 if rate < 0.5 else 0.3)
"""


@pytest.fixture
def fake(tmp_path):
    (tmp_path / "fake.py").write_text(FAKE)
    return sys.executable, str(tmp_path / "fake.py")


def write_search(path, text, **names):
    names = {"TRAIN": "configs/train/paper_resnet50.py", "PREP": "configs/prep/prep.py"} | names
    lines = [f"{name} = {value!r}" for name, value in names.items()]
    path.write_text(
        '"""A search of the tests."""\nfrom osteojax.sweep.space import choice, log_uniform, uniform\n'
        + "\n".join(lines)
        + f"\n\n\ndef space():\n    return {text}\n"
    )
    return str(path)


def loaded(tmp_path, text='{"optimizer.learning_rate": log_uniform(1e-5, 1e-1)}', **names):
    return space.load_search(write_search(tmp_path / "rates.py", text, **names))


def trials(out):
    with (out / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_validation_chooses_and_the_test_split_is_read_once(tmp_path, fake):
    out = tmp_path / "out"
    (chosen,) = search.search(loaded(tmp_path), out, 6, prepared="DATA", osteojax=fake)
    rows = trials(out)
    assert len(rows) == 6 and {row["state"] for row in rows} <= {"complete", "pruned"}
    best = max((row for row in rows if row["state"] == "complete"), key=lambda row: float(row["validation"]))
    assert str(chosen.number) == best["trial"] and chosen.folder == out / best["folder"]
    # The best epoch is the first, as the checkpoint's would be.
    seen = [json.loads(line) for line in (chosen.folder / "metrics.jsonl").read_text().splitlines()]
    assert chosen.validation == seen[1]["val/balanced_accuracy"]
    assert [path.parents[2] for path in out.glob("trials/*/eval/test/metrics.json")] == [chosen.folder]
    assert json.loads((out / "search.json").read_text())["chosen"][0]["values"] == chosen.values
    asked = {row["folder"]: float(row["optimizer.learning_rate"]) for row in rows}
    for folder, rate in asked.items():
        assert repr(rate)[:8] in (out / folder / "config.py").read_text()


def test_a_metric_that_is_better_small_is_searched_downwards(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [
        {"val/x": 3.0},
        {"train/loss": 0.0},
        {"val/x": None},
        {"val/x": 1.0},
        {"val/x": float("nan")},
        {"val/x": 2.0},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"val/x": ')
    assert search.best_so_far(path, "val/x", "max") == [3.0, 3.0, 3.0]
    assert search.best_so_far(path, "val/x", "min") == [3.0, 1.0, 1.0]
    assert search.best_so_far(tmp_path / "none", "val/x", "min") == []
    found = loaded(tmp_path, METRIC="cross_entropy")
    assert search.open_study(found, tmp_path, folds.Tested(), 0).direction.name == "MINIMIZE"


def test_poor_trials_are_stopped(tmp_path, fake, monkeypatch):
    monkeypatch.setattr(search, "_COMPARED_FROM", 1)
    found = loaded(tmp_path, '{"optimizer.learning_rate": choice(1e-3, 1.0)}')
    (chosen,) = search.search(found, tmp_path / "out", 5, prepared="DATA", osteojax=fake, seed=1)
    states = {(row["optimizer.learning_rate"], row["state"]) for row in trials(tmp_path / "out")}
    assert states == {("0.001", "complete"), ("1.0", "pruned")}
    assert chosen.values == {"optimizer.learning_rate": 1e-3}


def test_a_killed_search_goes_on_as_if_nothing_had_been(tmp_path, fake, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    search.search(loaded(tmp_path), whole, 4, prepared="DATA", osteojax=fake)
    honest = search.caller

    def dying(log_file, cores, osteojax, stop=None):
        call = honest(log_file, cores, osteojax, stop)

        def dies(arguments):
            code = call(arguments)
            if arguments[0] == "train" and len(list(broken.glob("trials/*/starts"))) == 2:
                raise KeyboardInterrupt
            return code

        return dies

    monkeypatch.setattr(search, "caller", dying)
    with pytest.raises(KeyboardInterrupt):
        search.search(loaded(tmp_path), broken, 4, prepared="DATA", osteojax=fake)
    monkeypatch.setattr(search, "caller", honest)
    search.search(loaded(tmp_path), broken, 4, prepared="DATA", osteojax=fake)
    rows, uninterrupted = trials(broken), trials(whole)
    key = "optimizer.learning_rate"
    assert [row["state"] for row in rows if row["state"] == "failed"] == ["failed"] and len(rows) == 5
    done = [row[key] for row in rows if row["state"] != "failed"]
    assert done[:2] == [row[key] for row in uninterrupted[:2]] and len(set(done)) == 4
    # The one that was killed went on in its own folder.
    assert rows[1]["folder"] == rows[2]["folder"]
    assert (broken / rows[1]["folder"] / "starts").read_text().count("started") == 2
    # More trials later are added to those that are there.
    search.search(loaded(tmp_path), broken, 5, prepared="DATA", osteojax=fake)
    assert len(trials(broken)) == 6 and trials(broken)[:5] == rows


def test_each_fold_that_is_tested_has_a_search_that_never_sees_it(tmp_path, fake):
    out = tmp_path / "out"
    chosen = search.search(loaded(tmp_path, FOLDS=3), out, 2, prepared="DATA", osteojax=fake)
    assert [one.tested.fold for one in chosen] == [0, 1, 2]
    rows = trials(out)
    assert [row["fold"] for row in rows] == ["0", "0", "1", "1", "2", "2"]
    for row in rows:
        assert f'"fold": {row["fold"]}' in (out / row["folder"] / "config.py").read_text()
    assert len(list(out.glob("trials/*/eval"))) == 3


def test_what_fails_again_and_again_is_told(tmp_path, fake):
    found = loaded(tmp_path, '{"optimizer.learning_rate": uniform(6.0, 9.0)}')
    with pytest.raises(UserError, match=r"5 trials failed one after the other(.|\n)*no such rate"):
        search.search(found, tmp_path / "out", 2, prepared="DATA", osteojax=fake)


def test_one_search_at_a_time(tmp_path, fake):
    out = tmp_path / "out"
    out.mkdir()
    with (out / "lock.search").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="a search is running in"):
            search.search(loaded(tmp_path), out, 2, prepared="DATA", osteojax=fake)


@pytest.mark.parametrize(
    ("text", "names", "message"),
    [
        ("{}", {}, "nothing to search"),
        ('{"optimizer.learning_rat": uniform(0.0, 1.0)}', {}, "did you mean optimizer.learning_rate"),
        ('{"prep.image_size": choice(64, 128)}', {}, "make it a sweep"),
        ('{"preset": ("head", "all")}', {}, "a tuple; take choice"),
        ('{"preset": choice()}', {}, "the values to choose from"),
        ('{"optimizer.learning_rate": log_uniform(0.0, 1.0)}', {}, "has nothing in it above 0"),
        ('{"optimizer.learning_rate": uniform(2.0, 1.0)}', {}, "has nothing in it"),
        ('{"preset": choice("head")}', {"METRIC": "beauty"}, "no metric 'beauty'"),
        ('{"preset": choice("head")}', {"FOLDS": 2}, "must be 3 at least"),
        ('{"preset": choice("head")}', {"TRAIN": ""}, "TRAIN names the training config"),
    ],
)
def test_a_search_file_that_does_not_fit_is_one_sentence(tmp_path, text, names, message):
    with pytest.raises(UserError, match=message):
        loaded(tmp_path, text, **names)


def test_whole_numbers_and_choices_keep_their_types(tmp_path):
    found = loaded(tmp_path, '{"data.batch_size": uniform(4, 8), "preset": choice("head", "all")}')
    study = search.open_study(found, tmp_path, folds.Tested(), 0)
    values = {key: one.suggest(study.ask(), key) for key, one in found.space.items()}
    assert type(values["data.batch_size"]) is int and 4 <= values["data.batch_size"] <= 8
    config = found.config(values, folds.Tested(2), 7)
    assert (config.fold, config.seed, config.best.metric) == (2, 7, "balanced_accuracy")
    read_experiment(config)


@pytest.mark.parametrize("name", [path.stem for path in sorted(SEARCHES.glob("[a-z]*.py"))])
def test_every_shipped_search_loads(name):
    found = space.load_search(f"configs/searches/{name}.py")
    assert f"--sweep=configs/searches/{name}.py --trials=" in found.text and found.prep


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--trials=0"], "must be 1 at least"),
        (["--trials=2", "--only", "1"], "--only is of sweeps"),
        (["--trials=2", "--processes=2"], "one trial at a time"),
        (["--trials=2", "--folds=3"], "has 0 folds"),
        (["--trials=2", "--folds=3", "--inner=3"], "--inner=3 with 3 folds"),
        (["--trials=2", "--repeats=2"], "--repeats=2 must be 1 at least, and is of folds"),
    ],
)
def test_flags_that_do_not_fit_are_one_sentence(tmp_path, prepared, capsys, flags, message):
    file = write_search(tmp_path / "rates.py", '{"preset": choice("head", "all")}')
    command = ["sweep", f"--sweep={file}", f"--out={tmp_path / 'out'}", f"--data_dir={prepared}", *flags]
    assert run(command) == 2
    assert message in capsys.readouterr().err


def test_inner_folds_validate_each_trial_in_turn_and_the_tested_one_never(tmp_path, fake):
    out = tmp_path / "out"
    found = loaded(tmp_path, FOLDS=3, INNER=2, REPEATS=2)
    chosen = search.search(found, out, 1, prepared="DATA", osteojax=fake)
    every = [(repeat, fold) for repeat in range(2) for fold in range(3)]
    assert [(one.tested.repeat, one.tested.fold) for one in chosen] == every
    told = []
    for path in out.glob("trials/*/config.py"):
        config = runpy.run_path(str(path))["get_config"]()
        told.append((config.repeat, config.fold, config.val_fold))
        assert config.fold != config.val_fold
    # Each trial is two runs: one that the next fold validates, and one that the other does.
    expected = [(repeat, fold, val) for repeat, fold in every for val in (-1, (fold + 2) % 3)]
    assert sorted(told) == sorted(expected)
    # What is tested is the run that the next fold validates.
    for one in chosen:
        config = runpy.run_path(str(one.folder / "config.py"))["get_config"]()
        assert (config.repeat, config.fold, config.val_fold) == (one.tested.repeat, one.tested.fold, -1)
    evaluated = {path.parents[2] for path in out.glob("trials/*/eval/test/metrics.json")}
    assert evaluated == {one.folder for one in chosen}
    record = json.loads((out / "search.json").read_text())
    assert record["inner"] == 2 and record["leaky"] is None and len(record["chosen"]) == 6


def test_a_trial_is_the_mean_of_the_folds_that_validate(tmp_path, fake, monkeypatch):
    of_run = iter([0.5, 0.7, 0.9, 0.8, 0.1, 0.6] * 4)
    monkeypatch.setattr(search._Runs, "_validated", lambda *_: (next(of_run), ""))
    monkeypatch.setattr(search._Runs, "choose", lambda self: self._study.best_trial)
    monkeypatch.setattr(search, "write_trials", lambda *_: None)
    best = search.search(
        loaded(tmp_path, FOLDS=4, INNER=3), tmp_path / "out", 2, prepared="DATA", osteojax=fake
    )
    assert [(trial.number, trial.value) for trial in best] == [(0, pytest.approx(0.7))] * 4


@pytest.mark.parametrize(
    ("text", "names", "message"),
    [
        ('{"fold": choice(0, 1)}', {}, "could choose by the test"),
        ('{"val_fold": choice(0, 1)}', {}, "could choose by the test"),
        ('{"eval.split": choice("val", "test")}', {}, "could choose by the test"),
        ('{"data.dir": choice("a", "b")}', {}, "could choose by the test"),
        ('{"preset": choice("head", "all")}', {"FOLDS": 4, "INNER": 4}, "INNER=4 with 4 folds.* 1 to 3"),
        ('{"preset": choice("head", "all")}', {"INNER": 2}, "INNER=2 with 0 folds"),
        ('{"preset": choice("head", "all")}', {"REPEATS": 2}, "is of folds"),
    ],
)
def test_nothing_that_is_tested_may_choose(tmp_path, text, names, message):
    with pytest.raises(UserError, match=message):
        loaded(tmp_path, text, **names)


def test_a_search_by_the_test_split_is_refused_before_anything_runs(tmp_path, fake):
    for split in ("test", "train", "none"):
        flags = [f"--config.eval.split={split}"]
        with pytest.raises(UserError, match="a search is decided by validation"):
            search.search(
                loaded(tmp_path), tmp_path / "out", 1, prepared="DATA", overrides=flags, osteojax=fake
            )
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_command_itself(tmp_path, prepared, capsys, monkeypatch):
    config = small.quick_config(prepared)
    config.epochs = 1.0
    small.write_config(tmp_path / "train.py", config)
    file = write_search(
        tmp_path / "rates.py",
        '{"preset": choice("head", "all")}',
        TRAIN=str(tmp_path / "train.py"),
        METRIC="accuracy",
    )
    honest = search.search
    script = (sys.executable, str(SCRIPT))
    monkeypatch.setattr(search, "search", lambda *args, **named: honest(*args, **named, osteojax=script))
    out = tmp_path / "out"
    assert run(["sweep", f"--sweep={file}", f"--out={out}", f"--data_dir={prepared}", "--trials=2"]) == 0
    said = capsys.readouterr().out
    assert "chosen by validation: trial" in said and "balanced accuracy" in said
    best = json.loads((out / "search.json").read_text())["chosen"][0]
    metrics = [json.loads(line) for line in (out / best["folder"] / "metrics.jsonl").read_text().splitlines()]
    assert best["validation"] == max(line["val/accuracy"] for line in metrics if "val/accuracy" in line)
    assert run(["sweep", f"--sweep={file}", f"--out={out}", "--trials=2", "--status"]) == 0
