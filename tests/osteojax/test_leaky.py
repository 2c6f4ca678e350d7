"""A leaky split: whatever is made from it says so, and nobody takes the mark away unseen."""

import csv
import json
import shutil

import numpy as np
import pytest
import small
from PIL import Image

from osteojax import leaky
from osteojax.cli.main import run
from osteojax.data.dataset import PreparedDataset
from osteojax.errors import UserError
from osteojax.evaluate.paired import compare_runs
from osteojax.evaluate.pool import pool_runs
from osteojax.export.read import open_exported
from osteojax.predict.predict import Predictor
from osteojax.report.pooled import write_pooled
from osteojax.run.checkpoint import Checkpoints
from osteojax.run.open import open_run
from osteojax.sweep import compare, plan, tables

MARK = {
    "reason": "images were dealt one by one",
    "counts": {"tested": 9, "leaking": 8, "patient": 8, "pixels": 0},
}


def write_source(root):
    """Two images a patient, stripes that tell the class; with one odd file more a class."""
    rng = np.random.default_rng(0)
    root.mkdir()
    lines = ["file,label,patient_id,site"]
    for n in range(42):
        label = n // 2 % 3
        stripes = 0.5 + 0.3 * np.sin(2 * np.pi * np.arange(40) / (3 + 3 * label) + rng.uniform(0, 6))
        pixels = 255 * np.clip(stripes[None] + rng.normal(0, 0.1, (40, 40)), 0, 1)
        Image.fromarray(pixels.astype(np.uint8)).save(root / f"{n}.png")
        lines.append(f"{n}.png,{small.CLASSES[label]},p{n // 2},s{n // 2 % 2}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return root


def prepared(source, out, *flags):
    command = ["prep", f"--source={source}", f"--out={out}", "--config.image_size=32", "--config.workers=0"]
    command += [
        "--config.denoise.name=none",
        "--config.audit.shortcuts=False",
        "--config.audit.near_duplicates=False",
    ]
    assert run([*command, *flags]) == 0
    return out


def trained(folder, data, workdir, command="train", **changes):
    config = small.quick_config(data)
    config.epochs, config.log_every = 1.0, 1
    config.update(changes)
    file = small.write_config(folder / f"{workdir.name}.py", config)
    assert run([command, f"--config={file}", f"--workdir={workdir}"]) == 0
    return workdir


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A dataset that leaks, and everything that is made from it."""
    folder = tmp_path_factory.mktemp("leaky")
    source = write_source(folder / "source")
    data = prepared(source, folder / "data", "--config.split.by=image", "--allow_leaky_split")
    one = trained(folder, data, folder / "run")
    other = trained(folder, data, folder / "other", seed=1)
    for place in (one, other):
        assert run(["evaluate", f"--workdir={place}"]) == 0
    return folder


def is_red(path):
    """Whether some of the picture is as red as the mark is drawn."""
    r, g, b = np.moveaxis(np.asarray(Image.open(path).convert("RGB"), int), -1, 0)
    return int(((r > 150) & (g < 90) & (b < 90)).sum()) > 20


# What is no result: the machine's times, what was asked, names for the resumption, and what the records seal.
NO_RESULT = ("timing.jsonl", "config.json", "learned.csv", "lock")


def unmarked(folder):
    """The files of a folder that do not say that they leak."""
    found = []
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name in NO_RESULT or "checkpoints" in path.relative_to(folder).parts:
            continue
        if path.suffix == ".png":
            marked = is_red(path)
        elif path.suffix == ".csv":
            with path.open(newline="") as file:
                marked = all(row["leaky"] for row in csv.DictReader(file))
        elif path.suffix == ".npz":  # of the checkpoint, which is named in it by its fingerprint
            marked = b"-leaky" in np.load(path)["identity"].tobytes()
        elif "tfevents" in path.name:
            marked = b"leaky/val/" in path.read_bytes()
        elif path.suffix == ".jsonl":
            marked = all(json.loads(line).get("leaky") for line in path.read_text().splitlines())
        else:
            text = path.read_text(errors="replace")
            marked = leaky.WORDS in text or '"leaky": {' in text
        if not marked:
            found.append(path.relative_to(folder).as_posix())
    return found


def test_every_file_of_a_run_and_of_its_evaluation_says_so(made):
    assert (made / "run" / "eval" / "test" / "roc.png").is_file()
    assert unmarked(made / "run") == []
    with Checkpoints_of(made / "run") as checkpoints:
        for step in checkpoints.steps():
            assert leaky.of(checkpoints.record(step))["counts"]["patient"] > 0
    assert "-leaky" in (made / "run" / "config.json").read_text()


class Checkpoints_of:
    def __init__(self, workdir):
        self._checkpoints = Checkpoints(workdir / "checkpoints")

    def __enter__(self):
        return self._checkpoints

    def __exit__(self, *_):
        self._checkpoints.close()


def test_the_dataset_says_so_and_an_honest_one_does_not(made, tmp_path, capsys):
    dataset = PreparedDataset.open(made / "data")
    assert dataset.mark["reason"].startswith("images were dealt one by one") and dataset.fingerprint.endswith(
        "-leaky"
    )
    assert leaky.WORDS in (made / "data" / "report.html").read_text()
    assert leaky.WORDS in " ".join(json.loads((made / "data" / "audit.json").read_text())["warnings"])
    honest = prepared(made / "source", tmp_path / "data")
    assert PreparedDataset.open(honest).mark is None
    work = trained(tmp_path, honest, tmp_path / "run")
    assert run(["evaluate", f"--workdir={work}"]) == 0
    assert leaky.WORDS not in capsys.readouterr().out
    with (work / "eval" / "test" / "predictions.csv").open() as file:
        assert "leaky" not in next(csv.reader(file))
    assert not is_red(work / "eval" / "test" / "confusion.png")
    # Another dataset's test does not wash the mark away, and a leaky one marks whoever is tested on it.
    for place, data in ((made / "run", honest), (work, made / "data")):
        flags = [
            f"--data_dir={data}",
            "--allow_overlap",
            "--no_near_copies",
            f"--out={tmp_path / place.name}{data.name}",
        ]
        assert run(["evaluate", f"--workdir={place}", *flags]) == 0
        assert leaky.WORDS in capsys.readouterr().out


def test_pools_comparisons_and_pages_of_several_say_so(made, tmp_path, capsys):
    both = [made / "run", made / "other"]
    assert run(["pool", *map(str, both), f"--out={tmp_path}/pool.json"]) == 0
    assert run(["compare", *map(str, both), f"--out={tmp_path}/compare.json"]) == 0
    write_pooled(pool_runs(both), tmp_path / "pooled.html")
    assert capsys.readouterr().out.count(leaky.WORDS) == 2 and unmarked(tmp_path) == []
    page = (tmp_path / "pooled.html").read_text()
    assert page.count("</svg>") == page.count(f"{leaky.WORDS}</text></svg>") > 0


def test_one_leaky_member_marks_all_of_it(made, tmp_path, monkeypatch):
    honest = shutil.copytree(made / "other", tmp_path / "honest")
    folder = honest / "eval" / "test"
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics |= {"leaky": None, "dataset_fingerprint": "of another"}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    with (folder / "predictions.csv").open(newline="") as file:
        rows = [{k: v for k, v in row.items() if k != "leaky"} for row in csv.DictReader(file)]
    with (folder / "predictions.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    assert compare_runs(honest, honest).leaky is None and pool_runs([honest])["leaky"] is None
    assert compare_runs(honest, made / "run").leaky and pool_runs([honest, made / "run"])["leaky"]
    runs = [
        plan.Planned(name, 0, plan.folds.Tested(), place, small.quick_config("x"), None)
        for name, place in (("honest", honest), ("leaky", made / "run"))
    ]
    variants = tuple(plan.Variant(run.variant, {}, {}) for run in runs)
    sweep = plan.Sweep(
        name="s", text="", train="", prep=None, folds=0, repeats=1, metric="accuracy", baseline="honest", seeds=(0,),
        variants=variants,
    )  # fmt: skip
    rows = compare.compare(sweep, tmp_path, runs)
    tables.write_comparison(tmp_path / "out", sweep, rows, [])
    assert [bool(row.mark) for row in rows] == [False, True]
    for name in ("comparison.md", "comparison.html"):
        assert leaky.WORDS in (tmp_path / "out" / name).read_text()
    with (tmp_path / "out" / "comparison.csv").open() as file:
        assert {bool(row["leaky"]) for row in csv.DictReader(file) if row["variant"] == "leaky"} == {True}
    first, second = open_run(made / "run"), open_run(made / "other")
    second.record.pop("leaky")
    second.record["dataset_fingerprint"] = "of another"
    assert Predictor([second]).mark is None and Predictor([second, first]).mark is not None


@pytest.mark.slow
def test_what_starts_from_leaky_weights_is_leaky_and_so_is_what_starts_from_that(made, tmp_path):
    data = small.write_dataset(tmp_path / "data", {"train": 12, "val": 6, "test": 6}, seed=9)
    assert PreparedDataset.open(data).mark is None
    first = trained(tmp_path, data, tmp_path / "first", init="imagenet", weights=str(made / "run"))
    again = trained(tmp_path, data, tmp_path / "again", init="imagenet", weights=str(first))
    for place in (first, again):
        assert run(["evaluate", f"--workdir={place}"]) == 0
        assert unmarked(place) == [
            "fitted/step-" + str(open_run(place).step) + ".npz"
        ]  # named by its own data
        assert open_run(place).mark["reason"].startswith("the weights learned so: images")


def test_predictions_exports_and_their_reports_say_so(made, tmp_path, capsys):
    files = [str(made / "source" / f"{n}.png") for n in range(2)]
    work = f"--workdir={made / 'run'}"
    assert run(["predict", work, *files, f"--out={tmp_path}/a.csv", f"--explain={tmp_path / 'maps'}"]) == 0
    assert (
        run(["export", work, f"--out={tmp_path / 'exported'}", "--format=safetensors,stablehlo,orbax"]) == 0
    )
    exported = f"--model={tmp_path / 'exported'}"
    assert run(["predict", exported, *files, f"--out={tmp_path}/b.json"]) == 0
    out = capsys.readouterr().out
    assert out.count(f"{leaky.WORDS} (images") == 2
    assert unmarked(tmp_path / "maps") == []
    for row in json.loads((tmp_path / "b.json").read_text())["predictions"]:
        assert row["leaky"].startswith(leaky.WORDS)
    with (tmp_path / "a.csv").open() as file:
        assert all(row["leaky"].startswith(leaky.WORDS) for row in csv.DictReader(file))
    description = open_exported(tmp_path / "exported").description
    assert leaky.of(description) and leaky.of({**description, "leaky": None})
    for name in ("config.json", "orbax/README.md"):
        assert "dealt one by one" in (tmp_path / "exported" / name).read_text()
    assert b"dealt one by one" in (tmp_path / "exported" / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_probe_and_the_page_of_augmentation_say_so(made, tmp_path):
    changes = {"preset": "head", "train": {"cache_prefix": True, "cache_dir": str(tmp_path / "cache")}}
    work = trained(tmp_path, made / "data", tmp_path / "probe", "probe", **changes)
    assert unmarked(work) == []
    file = small.write_config(tmp_path / "config.py", small.quick_config(made / "data"))
    assert run(["show-augment", f"--config={file}", f"--out={tmp_path / 'page.html'}"]) == 0
    assert leaky.WORDS in (tmp_path / "page.html").read_text()


@pytest.mark.slow
def test_the_report_and_the_model_card_say_so(made):
    assert run(["report", f"--workdir={made / 'run'}"]) == 0
    page = (made / "run" / "report.html").read_text()
    assert page.count("</svg>") == page.count(f"{leaky.WORDS}</text></svg>") > 3
    assert unmarked(made / "run") == []


def changed_metadata(data, out, change):
    shutil.copytree(data, out)
    path = out / "metadata.json"
    metadata = json.loads(path.read_text())
    change(metadata)
    path.write_text(json.dumps(metadata))
    return out


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.pop("leaky"),
        lambda m: m.update(leaky=None),
        lambda m: m["leaky"].update(reason="nothing to see"),
        lambda m: m["leaky"]["counts"].update(leaking=0),
        lambda m: m.update(content="0" * 64),
        lambda m: m.pop("content"),
        lambda m: m.update(fingerprint=m["content"]),
        lambda m: m.update(leaky="yes"),
    ],
)
def test_a_mark_that_was_changed_is_refused_where_the_dataset_is_opened(made, tmp_path, change):
    data = changed_metadata(made / "data", tmp_path / "data", change)
    with pytest.raises(UserError, match="the mark that says so was changed or taken away"):
        PreparedDataset.open(data)


def test_a_mark_taken_away_with_all_that_tells_of_it_is_found_in_the_shards(made, tmp_path, capsys):
    data = changed_metadata(
        made / "data", tmp_path / "data", lambda m: (m.pop("leaky"), m.update(fingerprint=m.pop("content")))
    )
    (data / "manifest.csv").unlink()
    assert PreparedDataset.open(data).mark is None
    for command in ("train", "probe"):
        file = small.write_config(tmp_path / "config.py", small.quick_config(data))
        assert run([command, f"--config={file}", f"--workdir={tmp_path / command}"]) == 2
        assert "is not marked as leaky: it was changed after it was prepared" in capsys.readouterr().err


def test_a_record_that_lost_its_mark_is_told_by_its_fingerprint():
    fingerprint = leaky.fingerprint("0" * 64, MARK)
    assert leaky.sealed({"fingerprint": fingerprint, "content": "0" * 64, "leaky": MARK}, "x") == MARK
    assert leaky.of({"dataset_fingerprint": fingerprint, "leaky": None})["counts"] == {}
    assert leaky.of({"dataset_fingerprint": "0" * 64}) is None and leaky.of({}) is None
    assert leaky.from_weights({"init": "run", "weights": {"dataset_fingerprint": fingerprint}})
    assert leaky.fingerprint("0" * 64, None) == "0" * 64
    for damaged in (
        {},
        {"reason": 1},
        {"counts": 3},
        {"counts": {"tested": "x"}},
        {"counts": {"tested": 1}},
        [1],
        5,
    ):
        mark = leaky.of({"leaky": damaged, "dataset_fingerprint": fingerprint})
        assert mark is not None and leaky.told(leaky.together([mark, MARK])).startswith(leaky.WORDS)


def test_several_marks_are_one_with_the_largest_counts():
    other = {"reason": "given", "counts": {"tested": 4, "leaking": 9}}
    both = leaky.together([MARK, None, other, MARK])
    assert both == {
        "reason": "images were dealt one by one; given",
        "counts": {"tested": 9, "leaking": 9, "patient": 8, "pixels": 0},
    }
    assert leaky.together([None, None]) is None
    assert leaky.told(MARK) == (
        "LEAKY SPLIT: images were dealt one by one; of 9 images that are tested 8 leak (8 by patient, 0 with identical "
        "pixels; near copies were not looked for). What is measured here may be memory"
    )
