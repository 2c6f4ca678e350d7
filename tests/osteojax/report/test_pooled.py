"""The page of several runs, against scikit-learn and numpy on the same predictions."""

import json
import re

import numpy as np
import pytest
import small
from pages import needs_browser, outline, violations
from scipy.special import log_softmax
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from osteojax.cli.main import run as command
from osteojax.evaluate.pool import pool_runs
from osteojax.metrics.score import score_predictions
from osteojax.report.pooled import leaks_of, pooled_page
from osteojax.run.predictions import write_predictions

FOLDS = 3
LABELS = np.random.default_rng(0).integers(0, 3, 60)


def evaluated(workdir, logits, ids, *, seed, fold=-1, data="nowhere"):
    """A workdir as evaluation leaves it, of these images."""
    examples = [{"id": f"i{i}", "patient_id": f"p{i // 2}", "label": LABELS[i]} for i in ids]
    folder = workdir / "eval" / "test"
    write_predictions(folder / "predictions.csv", examples, logits[ids], small.CLASSES)
    metrics = score_predictions(logits[ids], LABELS[ids], [f"p{i // 2}" for i in ids], small.CLASSES)
    metrics |= {"dataset_fingerprint": "f" * 64, "checkpoint_step": 7, "config_hash": "c" * 64}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "curves.json").write_text("{}")
    (workdir / "config.json").write_text(json.dumps({"seed": seed, "fold": fold, "data": {"dir": str(data)}}))
    return workdir


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """Three folds of two seeds, in no order, and their logits."""
    folder = tmp_path_factory.mktemp("pooled")
    logits = {
        seed: np.eye(3)[LABELS] + np.random.default_rng(seed + 1).normal(size=(60, 3)) for seed in (0, 1)
    }
    runs = [
        evaluated(folder / f"fold{fold} <seed {seed}>", logits[seed],
                  np.flatnonzero(np.arange(60) // 2 % FOLDS == fold), seed=seed, fold=fold)
        for fold in range(FOLDS)
        for seed in (0, 1)
    ]  # fmt: skip
    return runs, logits


@pytest.fixture(scope="module")
def page(seeds):
    found = pool_runs(seeds[0])
    return found, pooled_page(found, [leaks_of(run, "test") for run in found["runs"]])


def test_seeds_on_the_same_images_are_repetitions(seeds):
    runs, logits = seeds
    found = pool_runs(runs)
    assert found["repetitions"] == 2 and found["folds"] == [3, 3] and found["n"] == 60
    values = [balanced_accuracy_score(LABELS, logits[seed].argmax(-1)) for seed in (0, 1)]
    assert found["balanced_accuracy"]["value"] == pytest.approx(np.mean(values))
    spread = found["spread"]["balanced_accuracy"]
    assert spread["over_repetitions"] == pytest.approx(np.std(values, ddof=1))
    of_folds = [
        np.std([accuracy_score(LABELS[at], logits[seed][at].argmax(-1))
                for at in (np.arange(60) // 2 % FOLDS == fold for fold in range(FOLDS))], ddof=1)
        for seed in (0, 1)
    ]  # fmt: skip
    assert found["spread"]["accuracy"]["over_folds"] == pytest.approx(np.mean(of_folds))
    assert {(run["repetition"], run["seed"]) for run in found["runs"]} == {(0, 0), (1, 1)}


def test_one_repetition_has_no_spread_over_repetitions(seeds):
    runs, logits = seeds
    found = pool_runs([path for path in runs if "seed 1" in path.name])
    assert found["repetitions"] == 1 and found["spread"]["accuracy"]["over_repetitions"] is None
    cross_entropy = -log_softmax(logits[1], -1)[np.arange(60), LABELS].mean()
    assert found["cross_entropy"]["value"] == pytest.approx(cross_entropy, abs=1e-4)


def test_the_page_is_whole_and_says_what_was_found(page):
    found, html = page
    seen = outline(html)
    words = " ".join(seen.words)
    anchors = {a["id"] for _, a in seen.attributes if "id" in a}
    assert {a["href"][1:] for tag, a in seen.attributes if tag == "a"} == anchors
    assert "script" not in seen.tags and "<seed" not in html and "&lt;seed 0&gt;" in html
    together = found["balanced_accuracy"]
    low, high = together["ci95"]
    assert (
        f"{100 * together['value']:.1f} %" in words and f"95 %: {100 * low:.1f} to {100 * high:.1f}" in words
    )
    for run in found["runs"]:
        of = run["accuracy"]
        assert f"{of['value']:.3f} ({of['ci95'][0]:.3f} to {of['ci95'][1]:.3f})" in words
    assert f"{found['spread']['accuracy']['over_repetitions']:.3f}" in words
    assert "6 runs, 2 repetitions of 3, 3 folds; 60 images of 30 patients" in words
    assert "could not be checked for fold0 <seed 0>" in words
    levels = [int(tag[1]) for tag in seen.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert seen.tags.count("table") == seen.tags.count("caption") == 5


def test_a_leak_of_one_run_is_said_on_top(page, tmp_path):
    data = small.write_dataset(tmp_path / "data", {"train": 4, "test": 4})
    rows = ["file,split,patient_id,group,pixels"]
    (data / "manifest.csv").write_text("\n".join([*rows, "a,train,p1,g1,h1", "b,test,p2,g2,h2"]))
    found = page[0]
    config = {"seed": 0, "fold": -1, "data": {"dir": str(data)}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    fingerprint = json.loads((data / "dataset_info.json").read_text()) and "generated-0"
    run = {"workdir": str(tmp_path), "dataset_fingerprint": fingerprint}
    clean = leaks_of(run, "test")
    assert clean is not None and clean.clean
    (data / "manifest.csv").write_text("\n".join([*rows, "a,train,p1,g1,h1", "b,test,p1,g2,h2"]))
    shared = leaks_of(run, "test")
    assert shared is not None and not shared.clean
    assert leaks_of(run | {"dataset_fingerprint": "another"}, "test") is None
    others = [clean] * (len(found["runs"]) - 1)
    assert "LEAK" not in pooled_page(found, [clean, *others])
    assert "No leak found" in pooled_page(found, [clean, *others])
    said = pooled_page(found, [shared, *others])
    assert said.index("LEAK: training and test of fold0") < said.index("balanced accuracy")


def test_the_command(seeds, tmp_path, capsys):
    flags = [f"--workdir={path}" for path in seeds[0]]
    assert command(["report", *flags, f"--out={tmp_path}/page.html"]) == 0
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    assert f"{tmp_path}/page.html" in capsys.readouterr().out
    for wrong in (flags, [flags[0], f"--out={tmp_path}/page.html"]):
        assert command(["report", *wrong]) == 2
        assert "--out names the page of several runs" in capsys.readouterr().err


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing(page, tmp_path, width, dark):
    assert violations(page[1], tmp_path, width=width, dark=dark) == []
