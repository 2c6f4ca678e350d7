"""Two runs compared, against a bootstrap and DeLong's test written out."""

import csv
import json

import numpy as np
import pytest
from scipy import stats
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

from osteojax.cli.main import run
from osteojax.errors import UserError
from osteojax.evaluate.paired import compare_runs

NAMES = ("healthy", "osteopenia", "osteoporosis")


def write(workdir, logits, labels, patients, ids):
    folder = workdir / "eval" / "test"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "predictions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "patient_id", "label", "predicted", *(f"p_{n}" for n in NAMES)])
        for name, patient, label, p in zip(ids, patients, labels, softmax(logits, -1), strict=True):
            writer.writerow([name, patient, NAMES[label], NAMES[int(p.argmax())], *(f"{x:.6f}" for x in p)])


@pytest.fixture
def two(tmp_path):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 120)
    shared = rng.normal(size=(120, 3))
    first = np.eye(3)[labels] + shared
    second = 2 * np.eye(3)[labels] + shared + 0.3 * rng.normal(size=(120, 3))
    ids, patients = [f"i{i}" for i in range(120)], [f"p{i // 2}" for i in range(120)]
    write(tmp_path / "a", first, labels, patients, ids)
    order = rng.permutation(120)
    write(tmp_path / "b", second[order], labels[order], [patients[i] for i in order], [ids[i] for i in order])
    return tmp_path, first, second, labels, np.asarray(patients)


def test_differences_are_paired_by_image_and_resampled_by_patient(two):
    folder, first, second, labels, patients = two
    found = compare_runs(folder / "a", folder / "b")
    hits = [(x.argmax(-1) == labels).astype(float) for x in (first, second)]
    accuracy = found.metrics["accuracy"]
    assert (accuracy.first, accuracy.second) == pytest.approx((hits[0].mean(), hits[1].mean()))
    rng = np.random.default_rng(5)
    names = np.unique(patients)
    rows = {name: np.flatnonzero(patients == name) for name in names}
    drawn = []
    for _ in range(4000):
        chosen = np.concatenate([rows[name] for name in rng.choice(names, len(names))])
        drawn.append((hits[1] - hits[0])[chosen].mean())
    assert (accuracy.low, accuracy.high) == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.012)
    assert accuracy.p < 0.05


def test_mcnemar_counts_the_images_that_only_one_has_right(two):
    folder, first, second, labels, _ = two
    found = compare_runs(folder / "a", folder / "b")
    right = [(x.argmax(-1) == labels) for x in (first, second)]
    b, c = (right[0] & ~right[1]).sum(), (right[1] & ~right[0]).sum()
    assert (found.only_first, found.only_second) == (b, c)
    assert found.mcnemar_p == pytest.approx(stats.binomtest(int(b), int(b + c)).pvalue)


def test_delong_is_the_variance_of_the_difference_of_the_placements(two):
    folder, first, second, labels, patients = two
    found = compare_runs(folder / "a", folder / "b").metrics["auc_ovr (healthy)"]
    positive = labels == 0
    scores = [softmax(x, -1)[:, 0] for x in (first, second)]
    areas = [roc_auc_score(positive, s) for s in scores]
    assert (found.first, found.second) == pytest.approx(areas, abs=1e-3)
    parts = np.zeros(len(labels))
    for sign, s in zip((-1, 1), scores, strict=True):
        wins = (s[positive][:, None] > s[~positive]) + 0.5 * (s[positive][:, None] == s[~positive])
        parts[positive] += sign * (wins.mean(1) - wins.mean()) / positive.sum()
        parts[~positive] += sign * (wins.mean(0) - wins.mean()) / (~positive).sum()
    deviation = np.sqrt(sum(parts[patients == name].sum() ** 2 for name in np.unique(patients)))
    half = stats.t.ppf(0.975, 58) * deviation
    assert found.high - found.value == pytest.approx(half, rel=0.01)


def test_a_run_does_not_differ_from_itself(two):
    folder = two[0]
    found = compare_runs(folder / "a", folder / "a")
    assert all(of.value == 0 for of in found.metrics.values() if of.value is not None)
    assert found.mcnemar_p == 1.0 and found.metrics["accuracy"].p == 1.0


def test_other_images_and_what_was_not_evaluated_are_refused(two):
    folder, first, _, labels, patients = two
    with pytest.raises(UserError, match="was not evaluated on 'val'"):
        compare_runs(folder / "a", folder / "b", split="val")
    write(folder / "c", first[:100], labels[:100], patients[:100], [f"i{i}" for i in range(100)])
    with pytest.raises(UserError, match="100 are common to 120 and 100"):
        compare_runs(folder / "a", folder / "c")
    write(folder / "d", first, (labels + 1) % 3, patients, [f"i{i}" for i in range(120)])
    with pytest.raises(UserError, match="disagree on labels"):
        compare_runs(folder / "a", folder / "d")
    (folder / "d/eval/test/predictions.csv").write_text("id,patient_id\n1,2\n")
    with pytest.raises(UserError, match="is not whole"):
        compare_runs(folder / "a", folder / "d")


def test_the_command_prints_and_writes(two, capsys):
    folder = two[0]
    assert run(["compare", str(folder / "a"), str(folder / "b"), f"--out={folder}/c.json"]) == 0
    told = capsys.readouterr().out
    assert "balanced_accuracy" in told and "McNemar" in told
    found = json.loads((folder / "c.json").read_text())
    assert found["n"] == 120 and found["patients"] == 60 and "auc_ovr (healthy)" in found["metrics"]
