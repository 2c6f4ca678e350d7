"""Sweeps: planned, run once each, compared on the same patients."""

import csv
import fcntl
import json
import os
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
import small
from sklearn.metrics import balanced_accuracy_score

from data_prep.settings import read_settings
from osteojax import models
from osteojax.cli.main import run
from osteojax.errors import UserError
from osteojax.metrics.difference import bootstrapped, holm
from osteojax.run.predictions import Said
from osteojax.sweep import compare, execute, plan, tables
from osteojax.train.experiment import read_experiment

SCRIPT = Path(small.__file__)
SWEEPS = SCRIPT.parents[2] / "configs" / "sweeps"


def write_sweep(path, variants, **names):
    names = {"TRAIN": str(path.with_name("train.py")), "BASELINE": "base", "SEEDS": (0, 1)} | names
    lines = [f"{name} = {value!r}" for name, value in names.items()]
    path.write_text(
        '"""A sweep of the tests."""\n'
        + "\n".join(lines)
        + f"\n\n\ndef variants():\n    yield from {variants!r}\n"
    )
    return str(path)


@pytest.fixture
def sweep_file(prepared, tmp_path):
    config = small.quick_config(prepared)
    config.epochs = 1.0
    small.write_config(tmp_path / "train.py", config)
    return tmp_path / "sweep.py"


VARIANTS = [("base", {"preset": "head"}), ("all learn", {"preset": "all", "optimizer.learning_rate": 1e-2})]


# --- planning ---------------------------------------------------------------------------------------------------------


def test_every_variant_is_run_with_every_seed(sweep_file, prepared):
    sweep = plan.load_sweep(write_sweep(sweep_file, VARIANTS))
    runs = plan.plan(sweep, ["--config.epochs=2.0"], prepared=str(prepared))
    assert [(r.variant, r.seed) for r in runs] == [
        ("base", 0),
        ("base", 1),
        ("all learn", 0),
        ("all learn", 1),
    ]
    assert [r.config.preset for r in runs] == ["head", "head", "all", "all"]
    assert runs[3].config.optimizer.learning_rate == 1e-2 and runs[3].config.seed == 1
    assert all(r.config.epochs == 2.0 and r.config.data.dir == str(prepared) and r.prep is None for r in runs)
    assert runs[2].folder == Path("runs/all learn/seed0")
    assert sweep.text == "A sweep of the tests."


def test_folds_are_a_dimension_and_deal_the_preparation(sweep_file):
    sweep = plan.load_sweep(write_sweep(sweep_file, VARIANTS, PREP="configs/prep/prep.py", FOLDS=3))
    runs = plan.plan(sweep)
    assert [(r.seed, r.tested.fold) for r in runs[:6]] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert len(runs) == 12 and len({r.folder for r in runs}) == 12
    assert runs[5].folder == Path("runs/base/seed1/fold2") and runs[5].name == "base, seed 1, fold 2"
    assert all(r.config.fold == r.tested.fold and r.prep.split.folds == 3 for r in runs)
    for prep in ("prep_50_15_35", "prep_80_20", "prep_demo"):
        sweep = plan.load_sweep(write_sweep(sweep_file, VARIANTS, PREP=f"configs/prep/{prep}.py", FOLDS=3))
        assert {r.prep.split.folds for r in plan.plan(sweep)} == {3}
    for wrong in (1, 2, -3, 2.5):
        with pytest.raises(UserError, match="must be 3 at least, or 0"):
            plan.load_sweep(write_sweep(sweep_file, VARIANTS, PREP="configs/prep/prep.py", FOLDS=wrong))


def test_a_variant_may_set_the_preparation_and_those_that_prepare_alike_share_it(sweep_file):
    variants = [
        ("base", {}),
        ("none", {"prep.denoise.name": "none"}),
        ("none slower", {"prep.denoise.name": "none", "preset": "head"}),
        ("small", {"prep.image_size": 64}),
    ]
    sweep = plan.load_sweep(write_sweep(sweep_file, variants, PREP="configs/prep/prep.py"))
    runs = plan.plan(sweep)
    folders = [plan.preparation_folder(r.prep) for r in runs[::2]]
    assert folders[1] == folders[2] and len(set(folders)) == 3
    assert runs[2].prep.denoise.name == "none" and runs[6].prep.image_size == 64
    with pytest.raises(UserError, match="needs a preparation of its own"):
        plan.plan(sweep, prepared="somewhere")


@pytest.mark.parametrize(
    "variants, names, message",
    [
        ([("base", {}), ("base", {})], {}, "a name of its own"),
        ([], {}, "at least one variant"),
        ([("other", {})], {}, "BASELINE='base' is none of the variants other"),
        ([("base", {}), ("../up", {})], {}, "'../up' has other characters"),
        ([("base", {}), (".", {})], {}, "has other characters"),
        ([("base", {"prep.image_size": 64})], {}, "name its config with PREP"),
        ([("base", {})], {"SEEDS": (1, 1)}, "must be different"),
        ([("base", {})], {"METRIC": "beauty"}, "no metric 'beauty'"),
        ([("base", {})], {"TRAIN": ""}, "TRAIN names the training config"),
    ],
)
def test_a_sweep_that_does_not_fit_together_is_one_sentence(sweep_file, variants, names, message):
    with pytest.raises(UserError, match=message):
        plan.load_sweep(write_sweep(sweep_file, variants, **names))


def test_a_sweep_that_does_not_run_and_an_unknown_key(sweep_file, tmp_path):
    (tmp_path / "broken.py").write_text("def variants():\n    yield 1 / 0\n")
    with pytest.raises(UserError, match="the sweep does not run: ZeroDivisionError"):
        plan.load_sweep(str(tmp_path / "broken.py"))
    sweep = plan.load_sweep(write_sweep(sweep_file, [("base", {"optimizer.learning_rat": 1.0})]))
    with pytest.raises(UserError, match=r"optimizer\.learning_rat; did you mean optimizer\.learning_rate"):
        plan.plan(sweep, prepared="x")
    with pytest.raises(UserError, match="give the dataset with --data_dir"):
        plan.plan(sweep)


@pytest.mark.parametrize("name", [path.stem for path in sorted(SWEEPS.glob("[a-z]*.py"))])
def test_every_shipped_sweep_plans_runs_whose_configs_hold(name):
    sweep = plan.load_sweep(f"configs/sweeps/{name}.py")
    assert "osteojax sweep --sweep=" in sweep.text and f"{name}.py" in sweep.text
    runs = plan.plan(sweep)
    assert len(runs) == 3 * len(sweep.variants) >= 6
    for planned_run in runs[::3]:
        experiment = read_experiment(planned_run.config)
        assert models.ARCHITECTURES.get(experiment.model.name).classifies
        read_settings(planned_run.prep)


# --- running ----------------------------------------------------------------------------------------------------------


def fake_osteojax(tmp_path, body):
    """A command line that notes its calls and does what `body` says."""
    script = tmp_path / "osteojax.py"
    script.write_text(
        "import json, pathlib, sys\n"
        f"calls = pathlib.Path({str(tmp_path / 'calls')!r})\n"
        "with calls.open('a') as file:\n    file.write(json.dumps(sys.argv[1:]) + '\\n')\n"
        "flags = dict(word[2:].split('=', 1) for word in sys.argv[2:])\n"
        "command = sys.argv[1]\n"
        + body
        + "\nif command == 'prep':\n    out = pathlib.Path(flags['out']); out.mkdir(parents=True)\n"
        "    (out / 'dataset_info.json').write_text('{}')\n"
        "if command == 'evaluate':\n    out = pathlib.Path(flags['workdir']) / 'eval' / 'test'\n"
        "    out.mkdir(parents=True, exist_ok=True)\n"
        "    (out / 'metrics.json').write_text(json.dumps({'checkpoint_step': 1, 'per_class': {}}))\n"
    )
    return (sys.executable, str(script))


def calls_of(tmp_path):
    path = tmp_path / "calls"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def planned(sweep_file):
    sweep = plan.load_sweep(write_sweep(sweep_file, VARIANTS, PREP="configs/prep/prep.py"))
    return plan.plan(sweep)


def test_finished_runs_are_never_redone_and_preparation_is_shared(planned, tmp_path):
    command = fake_osteojax(tmp_path, "")
    outcomes = execute.execute(tmp_path / "out", planned, source="films", osteojax=command)
    assert [o.state for o in outcomes] == ["finished"] * 4
    commands = [words[0] for words in calls_of(tmp_path)]
    assert commands.count("prep") == 1 and commands.count("train") == commands.count("evaluate") == 4
    execute.execute(tmp_path / "out", planned, source="films", osteojax=command)
    assert len(calls_of(tmp_path)) == 9
    assert [o.state for o in execute.status(tmp_path / "out", planned)] == ["finished"] * 4


def test_a_run_whose_config_changed_is_not_taken_for_finished(planned, tmp_path):
    command = fake_osteojax(tmp_path, "")
    execute.execute(tmp_path / "out", planned, source="films", osteojax=command)
    planned[0].config.epochs = 5.0
    assert [o.state for o in execute.status(tmp_path / "out", planned)] == ["waiting"] + ["finished"] * 3


def test_a_failed_run_is_told_with_its_last_lines_and_does_not_stop_the_rest(planned, tmp_path):
    command = fake_osteojax(
        tmp_path,
        "if command == 'train' and 'base/seed1' in flags['workdir']:\n"
        "    print('osteojax train: the dog ate it', file=sys.stderr); sys.exit(2)\n",
    )
    outcomes = execute.execute(tmp_path / "out", planned, source="films", osteojax=command)
    assert [o.state for o in outcomes] == ["finished", "failed", "finished", "finished"]
    assert outcomes[1].reason.endswith("osteojax train: the dog ate it")
    assert execute.status(tmp_path / "out", planned)[1].state == "failed"
    again = execute.execute(tmp_path / "out", planned, source="films", osteojax=fake_osteojax(tmp_path, ""))
    assert [o.state for o in again] == ["finished"] * 4


def test_a_run_that_was_preempted_is_started_again(planned, tmp_path):
    command = fake_osteojax(
        tmp_path,
        "if command == 'train':\n"
        "    seen = pathlib.Path(flags['workdir']) / 'seen'\n"
        "    n = int(seen.read_text()) if seen.exists() else 0\n"
        "    seen.write_text(str(n + 1))\n"
        "    sys.exit(75 if n < 2 else 0)\n",
    )
    outcomes = execute.execute(tmp_path / "out", planned[:1], source="films", osteojax=command)
    assert outcomes[0].state == "finished"
    assert [words[0] for words in calls_of(tmp_path)].count("train") == 3


def test_processes_share_the_cores(planned, tmp_path):
    command = fake_osteojax(
        tmp_path, "import os\nif command == 'train':\n    print('cores', sorted(os.sched_getaffinity(0)))\n"
    )
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("one core has nothing to share")
    execute.execute(tmp_path / "out", planned, source="films", processes=2, osteojax=command)
    logs = [(tmp_path / "out" / r.folder / "run.log").read_text() for r in planned]
    shares = {line for text in logs for line in text.splitlines() if line.startswith("cores")}
    assert shares <= {f"cores {cores[0::2]}", f"cores {cores[1::2]}"}
    with pytest.raises(UserError, match="--processes=999"):
        execute.execute(tmp_path / "out", planned, source="films", processes=999, osteojax=command)


def test_a_run_that_another_process_holds_is_left_alone(planned, tmp_path):
    folder = tmp_path / "out" / planned[0].folder
    folder.mkdir(parents=True)
    with (folder / "lock.sweep").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert execute.status(tmp_path / "out", planned)[0].state == "running"
        outcomes = execute.execute(
            tmp_path / "out", planned[:2], source="films", osteojax=fake_osteojax(tmp_path, "")
        )
    assert [o.state for o in outcomes] == ["running", "finished"]


# --- comparing --------------------------------------------------------------------------------------------------------


def said(logits, labels, patients):
    return Said(np.arange(len(labels)).astype(str), logits, labels, patients, small.CLASSES)


def predicted(rng, skill, patients=40, images=2):
    labels = np.repeat(rng.integers(0, 3, patients), images)
    logits = rng.normal(size=(len(labels), 3))
    logits[np.arange(len(labels)), labels] += skill
    return said(logits, labels, np.repeat([f"p{i}" for i in range(patients)], images))


def test_deals_are_repetitions_of_a_seed(sweep_file, tmp_path):
    sweep = plan.load_sweep(
        write_sweep(sweep_file, VARIANTS[:1], PREP="configs/prep/prep.py", FOLDS=3, REPEATS=2)
    )
    runs = plan.plan(sweep)
    assert len(runs) == 12 and {(r.config.repeat, r.config.fold) for r in runs} == {
        (r, k) for r in (0, 1) for k in range(3)
    }
    assert (
        runs[4].folder == Path("runs/base/seed0/repeat1/fold1")
        and runs[4].name == "base, seed 0, repeat 1, fold 1"
    )
    assert {r.prep.split.repeats for r in runs} == {2}
    rng = np.random.default_rng(0)
    for one in runs:
        folder = tmp_path / one.folder / "eval" / "test"
        folder.mkdir(parents=True)
        lines = ["id,patient_id,label,p_healthy,p_osteopenia,p_osteoporosis"]
        for n in range(one.tested.fold, 30, 3):
            p = rng.dirichlet((1, 1, 1))
            lines.append(
                f"i{n},p{n},{('healthy', 'osteopenia', 'osteoporosis')[n % 5 % 3]},{p[0]},{p[1]},{p[2]}"
            )
        (folder / "predictions.csv").write_text("\n".join(lines) + "\n")
    (row,) = compare.compare(sweep, tmp_path, runs)
    assert (row.seeds, row.n, row.patients) == (4, 30, 30)
    (row,) = compare.compare(sweep, tmp_path, runs[:-1])
    assert row.seeds == 3
    assert "Each seed counts 2 times" in tables.markdown(sweep, [row], [])


def test_the_predictions_of_all_folds_are_scored_as_one_test_split(sweep_file, tmp_path):
    """Against scikit-learn on all of them at once; a seed of which a fold is missing does not count yet."""
    sweep = plan.load_sweep(write_sweep(sweep_file, VARIANTS[:1], PREP="configs/prep/prep.py", FOLDS=3))
    runs = plan.plan(sweep)
    rng = np.random.default_rng(0)
    names, rows = ("healthy", "osteopenia", "osteoporosis"), []
    for one in runs:
        folder = tmp_path / one.folder / "eval" / "test"
        folder.mkdir(parents=True)
        mine = []
        for n in range(10 + one.tested.fold):
            p, label = rng.dirichlet((1, 1, 1)), names[n % 3]
            mine.append([f"{one.tested.fold}-{n}", label, *(f"{x:.6f}" for x in p)])
        header = ["id", "patient_id", "label", *(f"p_{n}" for n in names)]
        text = "\n".join([",".join(header), *(",".join([row[0], *row]) for row in mine)])
        (folder / "predictions.csv").write_text(text + "\n")
        rows += [(one.seed, row) for row in mine]
    (row,) = compare.compare(sweep, tmp_path, runs)
    assert (row.seeds, row.n, row.patients) == (2, 33, 33)
    of_seeds = [
        balanced_accuracy_score(
            [r[1] for seed, r in rows if seed == s],
            [names[int(np.argmax([float(x) for x in r[2:]]))] for seed, r in rows if seed == s],
        )
        for s in (0, 1)
    ]
    assert row.metrics["balanced_accuracy"].value == pytest.approx(np.mean(of_seeds))
    (row,) = compare.compare(sweep, tmp_path, runs[:-1])
    assert (row.seeds, row.n) == (1, 33)


def test_values_and_paired_differences_are_those_of_a_plain_bootstrap():
    rng = np.random.default_rng(0)
    base = predicted(rng, 1.0)
    better = said(base.logits + 0.5 * np.eye(3)[base.labels], base.labels, base.patients)
    a, b = (compare._samples([one], 0)["accuracy"] for one in (base, better))
    accuracy = [(one.logits.argmax(-1) == one.labels).mean() for one in (base, better)]
    assert (a[0], b[0]) == pytest.approx(accuracy)
    people = np.unique(base.patients)
    draws = np.random.default_rng(1)
    plain = []
    for _ in range(2000):
        rows = np.concatenate([np.flatnonzero(base.patients == p) for p in draws.choice(people, len(people))])
        hits = [(one.logits[rows].argmax(-1) == one.labels[rows]).mean() for one in (base, better)]
        plain.append(hits[1] - hits[0])
    np.testing.assert_allclose(
        np.percentile((b - a)[1:], [2.5, 97.5]), np.percentile(plain, [2.5, 97.5]), atol=0.03
    )
    # Unpaired draws would be wider by far.
    assert np.std((b - a)[1:]) < 0.8 * np.hypot(np.std(a[1:]), np.std(b[1:]))


def test_holm_by_hand():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({"a": 0.9, "b": 0.8}) == {"b": 1.0, "a": 1.0} and holm({}) == {}


def test_p_values_of_no_difference_are_uniform_enough():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(60):
        one, other = predicted(rng, 1.0), predicted(rng, 1.0)
        other = said(other.logits, one.labels, one.patients)
        logits = rng.normal(size=one.logits.shape)
        logits[np.arange(len(one.labels)), one.labels] += 1.0
        other = said(logits, one.labels, one.patients)
        a, b = (compare._samples([x], 0)["accuracy"] for x in (one, other))
        found.append(bootstrapped(b - a)[3])
    assert 0 < np.mean(np.asarray(found) < 0.05) + 1e-9 < 0.2 and 0.3 < np.mean(found) < 0.75


# --- the whole command ------------------------------------------------------------------------------------------------


@pytest.fixture
def real(monkeypatch):
    """Runs are made by the console script that knows the network of the tests."""
    monkeypatch.setattr(
        execute.execute,
        "__kwdefaults__",
        {**execute.execute.__kwdefaults__, "osteojax": (sys.executable, str(SCRIPT))},
    )
    monkeypatch.setenv("PYTHONPATH", str(SCRIPT.parents[2]))


def test_the_command_shows_and_writes_the_comparison(sweep_file, prepared, tmp_path, monkeypatch, capsys):
    """With predictions that are known: the baseline is always wrong on the last class, the other never."""
    body = (
        "if command == 'evaluate':\n"
        "    out = pathlib.Path(flags['workdir']) / 'eval' / 'test'; out.mkdir(parents=True)\n"
        "    good = 'all learn' in flags['workdir']\n"
        "    rows = ['id,patient_id,label,predicted,p_a,p_b,p_c']\n"
        "    for i in range(30):\n"
        "        true = i % 3; said = true if good or true < 2 else 0\n"
        "        p = ['0.9' if c == said else '0.05' for c in range(3)]\n"
        "        rows.append(','.join([str(i), f'p{i // 2}', 'abc'[true], 'abc'[said], *p]))\n"
        "    (out / 'predictions.csv').write_text('\\n'.join(rows))\n"
        "    metrics = {'checkpoint_step': 1, 'per_class': dict.fromkeys('abc')}\n"
        "    (out / 'metrics.json').write_text(json.dumps(metrics))\n"
        "    sys.exit(0)\n"
    )
    defaults = {**execute.execute.__kwdefaults__, "osteojax": fake_osteojax(tmp_path, body)}
    monkeypatch.setattr(execute.execute, "__kwdefaults__", defaults)
    out = tmp_path / "out"
    words = [
        "sweep",
        f"--sweep={write_sweep(sweep_file, VARIANTS)}",
        f"--out={out}",
        f"--data_dir={prepared}",
    ]
    assert run([*words, "--only", "0", "2"]) == 0 and run(words) == 0
    printed = capsys.readouterr()
    assert "balanced accuracy" in printed.out and "+0.333" in printed.out and "finished" in printed.err
    with (out / "comparison.csv").open() as file:
        rows = {(row["variant"], row["metric"]): row for row in csv.DictReader(file)}
    base, other = (rows[name, "balanced_accuracy"] for name in ("base", "all learn"))
    assert float(base["value"]) == pytest.approx(2 / 3) and float(other["value"]) == 1.0
    assert float(other["difference"]) == pytest.approx(1 / 3) and float(other["p_holm"]) < 0.01
    assert base["difference"] == base["p_holm"] == "" and float(other["sd_over_seeds"]) == 0.0
    assert "| all learn | 2 | 30 | 15 |" in (out / "comparison.md").read_text()
    assert '<th scope="row">all learn</th>' in (out / "comparison.html").read_text()


@pytest.mark.slow
def test_a_sweep_from_command_to_tables(real, sweep_file, prepared, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [
        "sweep",
        f"--sweep={write_sweep(sweep_file, VARIANTS)}",
        f"--out={out}",
        f"--data_dir={prepared}",
    ]
    assert run([*arguments, "--status"]) == 0
    assert "waiting" in capsys.readouterr().err and not (out / "comparison.csv").exists()
    assert run([*arguments, "--only", "0", "2"]) == 0
    assert run(arguments) == 0
    printed = capsys.readouterr()
    assert "balanced accuracy" in printed.out and "finished" in printed.err and "Traceback" not in printed.err
    with (out / "comparison.csv").open() as file:
        rows = {(row["variant"], row["metric"]): row for row in csv.DictReader(file)}
    scores = []
    for seed in (0, 1):
        with (
            out / "runs" / "all learn" / f"seed{seed}" / "eval" / "test" / "predictions.csv"
        ).open() as file:
            table = list(csv.DictReader(file))
        scores.append(balanced_accuracy_score([r["label"] for r in table], [r["predicted"] for r in table]))
    row = rows["all learn", "balanced_accuracy"]
    assert float(row["value"]) == pytest.approx(np.mean(scores))
    assert float(row["sd_over_seeds"]) == pytest.approx(np.std(scores, ddof=1))
    base = float(rows["base", "balanced_accuracy"]["value"])
    assert (
        float(row["difference"]) == pytest.approx(np.mean(scores) - base)
        and rows["base", "accuracy"]["p_holm"] == ""
    )
    assert "| all learn | 2 | 11 | 6 |" in (out / "comparison.md").read_text()
    assert '<th scope="row">all learn</th>' in (out / "comparison.html").read_text()


def test_names_are_text_on_the_page():
    said = {
        "name": "x<script>",
        "text": "",
        "train": "",
        "prep": None,
        "folds": 0,
        "repeats": 1,
        "metric": "accuracy",
    }
    sweep = plan.Sweep(**said, baseline="base", seeds=(0,), variants=(plan.Variant("base", {}, {}),))
    assert "<script>" not in tables.page(sweep, [], [])


# --- schedulers -------------------------------------------------------------------------------------------------------


def stand_in(folder, name, status=0, said=""):
    """An executable that notes its arguments and answers."""
    path = folder / name
    path.write_text(
        f"#!/bin/sh\necho \"$@\" >> {folder}/{name}.calls\necho '{said}' >&{1 if status == 0 else 2}\nexit {status}\n"
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_slurm_gets_one_array_job_whose_tasks_do_one_run_each(
    sweep_file, prepared, tmp_path, monkeypatch, capsys
):
    stand_in(tmp_path, "sbatch", said="Submitted batch job 7")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    out = tmp_path / "out"
    words = [
        "sweep",
        f"--sweep={write_sweep(sweep_file, VARIANTS)}",
        f"--out={out}",
        f"--data_dir={prepared}",
    ]
    monkeypatch.setattr(sys, "argv", ["osteojax", *words, "--slurm"])
    assert run([*words, "--slurm"]) == 0
    assert "Submitted batch job 7" in capsys.readouterr().out
    script = (out / "array.sbatch").read_text()
    assert "#SBATCH --array=0-3" in script and "--requeue" in script
    assert (
        script.rstrip().endswith('"--only=$SLURM_ARRAY_TASK_ID"') and "--slurm" not in script.split("exec")[1]
    )
    assert (tmp_path / "sbatch.calls").read_text().strip() == str(out / "array.sbatch")


def test_kubernetes_gets_a_job_a_run_and_a_refusal_is_one_sentence(
    sweep_file, prepared, tmp_path, monkeypatch, capsys
):
    stand_in(tmp_path, "kubectl", status=1, said="error: exceeded quota")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    out = tmp_path / "out"
    words = [
        "sweep",
        f"--sweep={write_sweep(sweep_file, VARIANTS)}",
        f"--out={out}",
        f"--data_dir={prepared}",
    ]
    monkeypatch.setattr(sys, "argv", ["osteojax", *words, "--kubernetes=registry/osteojax:1"])
    assert run([*words, "--kubernetes=registry/osteojax:1"]) == 2
    assert "kubectl refuses: error: exceeded quota" in capsys.readouterr().err
    items = json.loads((out / "jobs.json").read_text())["items"]
    commands = [item["spec"]["template"]["spec"]["containers"][0]["command"] for item in items]
    assert [command[-1] for command in commands] == [f"--only={i}" for i in range(4)]
    assert all(
        command[:2] == ["osteojax", "sweep"] and "--kubernetes" not in " ".join(command)
        for command in commands
    )
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert run([*words, "--slurm"]) == 2
    assert "sbatch is not installed here" in capsys.readouterr().err
