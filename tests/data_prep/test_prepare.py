"""Preparation end to end: what lands on disk, what is refused, what survives."""

import csv
import fcntl
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from scipy import ndimage

from data_prep import image_task
from data_prep.denoise.rule import LEFT_ALONE
from data_prep.prepare import audit_source, prepare
from data_prep.preprocess import PreprocessSpec, preprocess, preprocess_native
from data_prep.workdir import open_workdir
from data_prep.workers import WorkerDied
from osteojax import config as configs
from osteojax.errors import UserError
from tests.data_prep.decode.dicom_files import dicom

CLASSES = ("healthy", "osteopenia", "osteoporosis")


def settings(**changes):
    config = configs.load("configs/prep/prep.py")
    config.denoise.backend = "none"
    config.image_size = 32
    config.workers = 0
    config.audit.near_duplicates = False
    config.audit.shortcuts = False
    for key, value in changes.items():
        *parents, last = key.split("__")
        node = config
        for parent in parents:
            node = node[parent]
        node[last] = value
    return config


def write_image(path: Path, seed: int) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (48, 40), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture
def folders(tmp_path):
    """Class folders of 10 images a class, no patient ids."""
    root = tmp_path / "source"
    for c, name in enumerate(("Normal", "osteopenia", "Osteoporosis")):
        for i in range(10):
            write_image(root / name / f"{i}.png", 100 * c + i)
    return root


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_the_data_set_holds_what_preprocess_gives(folders, tmp_path):
    out = tmp_path / "out"
    result = prepare(folders, out, settings())
    builder = tfds.builder_from_directory(str(out))
    assert builder.info.features["label"].names == list(CLASSES)
    spec = PreprocessSpec.from_dict(builder.info.metadata["preprocessing"])
    assert builder.info.metadata["fingerprint"] == result.fingerprint
    manifest = {row["id"]: row for row in read_csv(out / "manifest.csv")}
    seen = set()
    for split in builder.info.splits:
        for example in builder.as_data_source(split):
            row = manifest[example["id"].decode()]
            seen.add(row["file"])
            assert (row["split"], row["label"]) == (split, CLASSES[example["label"]])
            pixels = np.asarray(Image.open(folders / row["file"]), np.float32)
            np.testing.assert_array_equal(example["image"], preprocess(pixels, spec))
    assert len(seen) == 30
    assert json.loads((out / "audit.json").read_text())["exact_duplicates"] == []
    assert not (tmp_path / "out.partial").exists()


def test_folds_share_no_patient_hold_everything_and_every_class(tmp_path):
    root = tmp_path / "source"
    lines = ["file,label,patient_id"]
    for i in range(60):
        write_image(root / f"{i}.png", i // 2 if i < 4 else i)  # copies of one patient, and of two
        lines.append(f"{i}.png,{CLASSES[i // 3 % 3]},p{i // 3}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    prepare(str(root), tmp_path / "out", settings(split__folds=5, duplicates="keep", conflicts="keep"))
    with (tmp_path / "out" / "manifest.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    folds = [f"fold{k}" for k in range(5)]
    assert {row["split"] for row in rows} == set(folds) and len(rows) == 60
    for column in ("patient_id", "group"):
        for value in {row[column] for row in rows}:
            assert len({row["split"] for row in rows if row[column] == value}) == 1
    counts = [sum(row["split"] == fold for row in rows) for fold in folds]
    assert max(counts) - min(counts) <= 3  # a patient has three images
    builder = tfds.builder_from_directory(str(tmp_path / "out"))
    assert list(builder.info.splits) == folds
    assert builder.info.metadata["split"] == {**dict.fromkeys(folds, 0.2), "seed": 0}


def test_folds_that_cannot_be(folders, tmp_path, monkeypatch):
    for folds in (1, 2):
        with pytest.raises(UserError, match=f"split.folds={folds}: one is tested"):
            prepare(str(folders), tmp_path / "out", settings(split__folds=folds))
    root = tmp_path / "few"
    for i in range(16):
        write_image(root / CLASSES[min(i // 7, 2)] / f"{i}.png", i)  # of the last class two images
    with pytest.raises(UserError, match=r"where fold\d is tested, training has no image of osteoporosis"):
        prepare(str(root), tmp_path / "out", settings(split__folds=3))
    given = tmp_path / "given"
    for i in range(30):
        write_image(given / "train" / CLASSES[i % 3] / f"{i}.png", i)
    monkeypatch.setattr("data_prep.runner.run_tasks", None)  # nothing is decoded before that is told
    with pytest.raises(UserError, match=r"deals all patients anew, but the source puts .* into train"):
        prepare(str(given), tmp_path / "out", settings(split__folds=3))
    assert not (tmp_path / "out").exists()


def test_refuses_to_touch_what_is_there(folders, tmp_path):
    out = tmp_path / "out"
    prepare(folders, out, settings())
    with pytest.raises(UserError, match="overwrite"):
        prepare(folders, out, settings())
    other = tmp_path / "mine"
    write_image(other / "keep.png", 1)
    with pytest.raises(UserError, match="not written by this command"):
        prepare(folders, other, settings(overwrite=True))
    assert (other / "keep.png").exists()
    prepare(folders, out, settings(overwrite=True, seed=1))


def labelled(root: Path, rows: list[dict], images: dict[str, int]) -> Path:
    """A source with a table; `images` gives each file's seed, so that equal seeds are equal pixels."""
    for file, seed in images.items():
        write_image(root / file, seed)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with (root / "labels.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)
    return root


def ordinary(count=20):
    """Rows and images of `count` patients a class with one image each."""
    rows, images = [], {}
    for c, label in enumerate(CLASSES):
        for i in range(count):
            file = f"{label[0] + label[6]}{i}.png"
            rows.append({"file": file, "label": label, "patient_id": f"{label}-{i}", "age": str(40 + i)})
            images[file] = 1000 * c + i
    return rows, images


def quarantined(out: Path) -> dict[str, str]:
    return {row["file"]: row["reason"] for row in read_csv(out / "quarantine.csv")}


def test_patients_and_identical_pixels_never_cross(tmp_path):
    rows, images = ordinary()
    for i in range(0, 20, 2):  # a second image of every other patient
        rows.append({"file": f"again{i}.png", "label": "healthy", "patient_id": f"healthy-{i}", "age": ""})
        images[f"again{i}.png"] = 5000 + i
    # One picture under the names of two patients joins them and all their images.
    rows.append({"file": "copy.png", "label": "healthy", "patient_id": "healthy-2", "age": ""})
    images["copy.png"] = images["hy0.png"]
    out = tmp_path / "out"
    prepare(labelled(tmp_path / "in", rows, images), out, settings(duplicates="keep"))
    manifest = read_csv(out / "manifest.csv")
    assert len(manifest) == 71
    by_key = {}
    for row in manifest:
        for key in (row["patient_id"], row["sha256"], row["group"]):
            assert by_key.setdefault(key, row["split"]) == row["split"]
    joined = {row["group"] for row in manifest if row["patient_id"] in ("healthy-0", "healthy-2")}
    assert joined == {"healthy-0"}
    assert len({row["id"] for row in manifest}) == 71


def test_contradictions_and_copies_are_left_out_and_explained(tmp_path):
    rows, images = ordinary()
    images["oe3.png"] = images["hy0.png"]
    rows.append({"file": "copy.png", "label": "healthy", "patient_id": "other", "age": ""})
    images["copy.png"] = images["hy5.png"]
    source = labelled(tmp_path / "in", rows, images)
    result = prepare(source, tmp_path / "out", settings())
    found = quarantined(tmp_path / "out")
    assert "contradictory labels" in found["hy0.png"] and "oe3.png (" in found["hy0.png"]
    assert found["hy5.png"] == "identical pixels to copy.png"
    assert result.quarantined == len(found)
    audit = json.loads((tmp_path / "out/audit.json").read_text())
    assert [{i["file"] for i in group} for group in audit["conflicts"]] == [{"hy0.png", "oe3.png"}]
    assert len(audit["exact_duplicates"]) == 2
    kept = prepare(source, tmp_path / "kept", settings(conflicts="keep", duplicates="keep"))
    assert kept.quarantined == 0
    with pytest.raises(UserError, match="conflicts is 'ignore'; it must be one of 'quarantine', 'keep'"):
        prepare(source, tmp_path / "other", settings(conflicts="ignore"))


def test_near_duplicates_stay_on_one_side(tmp_path):
    rows, images = ordinary(8)
    source = labelled(tmp_path / "in", rows, images)
    rng = np.random.default_rng(7)
    texture = {row["file"]: ndimage.gaussian_filter(rng.normal(size=(160, 160)), 1.5) for row in rows}
    # The mirrored crop of another patient's radiograph, under another label.
    texture["oe5.png"] = texture["hy2.png"][8:150, 10:152][:, ::-1]
    for file, pixels in texture.items():
        scaled = (pixels - pixels.min()) / np.ptp(pixels) * 255
        Image.fromarray(scaled.astype(np.uint8)).save(source / file)
    config = settings(audit__near_duplicates=True, audit__shortcuts=True, image_size=128)
    result = prepare(source, tmp_path / "out", config)
    (pair,) = json.loads((tmp_path / "out/audit.json").read_text())["near_duplicates"]
    assert (pair["part"], pair["whole"], pair["mirrored"]) == ("oe5.png", "hy2.png", True)
    manifest = {row["file"]: row for row in read_csv(tmp_path / "out/manifest.csv")}
    assert manifest["oe5.png"]["group"] == manifest["hy2.png"]["group"] == "healthy-2"
    assert manifest["oe5.png"]["split"] == manifest["hy2.png"]["split"]
    assert len({row["group"] for row in manifest.values()}) == 23
    assert any("near copies" in text for text in result.warnings)
    page = (tmp_path / "out/report.html").read_text()
    assert "oe5.png (osteopenia)" in page and "balanced accuracy" in page


def test_the_audit_alone_finds_the_same(tmp_path):
    rows, images = ordinary()
    images["oe3.png"] = images["hy0.png"]
    source = labelled(tmp_path / "in", rows, images)
    (source / "hy7.png").write_bytes(b"nothing")
    found = audit_source(source, tmp_path / "audit", settings(denoise__backend="numba"))
    assert {p.name for p in (tmp_path / "audit").iterdir()} == {
        "audit.json",
        "manifest.csv",
        "quarantine.csv",
    }
    assert json.loads((tmp_path / "audit/audit.json").read_text()) == found
    assert [{i["file"] for i in group} for group in found["conflicts"]] == [{"hy0.png", "oe3.png"}]
    assert list(quarantined(tmp_path / "audit")) == ["hy7.png"]
    manifest = read_csv(tmp_path / "audit/manifest.csv")
    assert len(manifest) == 59 and {row["split"] for row in manifest} == {""}
    prepare(source, tmp_path / "out", settings())
    prepared = json.loads((tmp_path / "out/audit.json").read_text())
    assert prepared["conflicts"] == found["conflicts"]
    with pytest.raises(UserError, match="not written by this command"):
        audit_source(source, tmp_path / "out", settings(overwrite=True))


def test_unusable_files_are_quarantined_and_too_many_stop_the_run(tmp_path):
    rows, images = ordinary()
    source = labelled(tmp_path / "in", rows, images)
    (source / "hy3.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    (source / "oe4.png").unlink()
    prepare(source, tmp_path / "out", settings())
    assert set(quarantined(tmp_path / "out")) == {"hy3.png", "oe4.png"}
    assert not {"hy3.png", "oe4.png"} & {row["file"] for row in read_csv(tmp_path / "out/manifest.csv")}
    with pytest.raises(UserError, match=r"2 of 60 files.*max_fraction=0\.02"):
        prepare(source, tmp_path / "strict", settings(quarantine__max_fraction=0.02))
    assert not (tmp_path / "strict").exists()
    assert len(read_csv(tmp_path / "strict.partial/quarantine.csv")) == 2


def test_a_name_that_is_no_text_is_quarantined(folders, tmp_path):
    (folders / os.fsdecode(b"Normal/\xff.png")).touch()
    prepare(folders, tmp_path / "out", settings())
    assert list(quarantined(tmp_path / "out")) == ["Normal/\\udcff.png"]


def test_doubtful_noise_estimates_are_said_aloud(tmp_path, monkeypatch):
    monkeypatch.setattr("data_prep.denoise.block_matching.bm3d", lambda image, sigma, **_: image)
    rows, images = ordinary()
    source = labelled(tmp_path / "in", rows, images)
    for row in rows:  # blurred: the noise is correlated
        smooth = ndimage.gaussian_filter(np.asarray(Image.open(source / row["file"]), float), 1)
        Image.fromarray(smooth.astype(np.uint8)).save(source / row["file"])
    config = settings(denoise__backend="numba", privacy__burned_in="ignore")
    (warning,) = prepare(source, tmp_path / "out", config).warnings
    assert "images cannot be told from their texture: they were not denoised" in warning
    done = Counter(row["denoising"] for row in read_csv(tmp_path / "out/manifest.csv"))
    name, left = done.most_common(1)[0]
    assert name in LEFT_ALONE and left > 30
    page = (tmp_path / "out/report.html").read_text()
    assert f"images: left alone, {LEFT_ALONE[name]}</th><td>{left}</td>" in page
    config.denoise.when = "always"
    (warning,) = prepare(source, tmp_path / "always", config).warnings
    assert (
        "60 of 60 images is clipped, correlated" in warning and "steered the denoiser all the same" in warning
    )
    config.denoise.sigma = 20.0
    (warning,) = prepare(source, tmp_path / "given", config).warnings
    assert "denoise.sigma=20 is more than twice the estimated noise of 60 of 60 images" in warning
    assert "makes bone waxy" in warning and "known" not in warning


def test_a_file_that_kills_its_worker_is_quarantined(tmp_path, monkeypatch):
    def one_dies(function, tasks, workers, seconds):
        for index, task in enumerate(tasks):
            yield index, WorkerDied() if index == 4 else function(task)

    monkeypatch.setattr("data_prep.runner.run_tasks", one_dies)
    rows, images = ordinary()
    prepare(labelled(tmp_path / "in", rows, images), tmp_path / "out", settings())
    (reason,) = quarantined(tmp_path / "out").values()
    assert "worker process died" in reason


def test_a_defect_on_one_image_does_not_end_the_run(tmp_path, monkeypatch):
    def sometimes(pixels, *arguments):
        if pixels[0, 0] == first:
            raise RuntimeError("boom")
        return preprocess_native(pixels, *arguments)

    rows, images = ordinary()
    source = labelled(tmp_path / "in", rows, images)
    first = np.asarray(Image.open(source / "hy0.png"))[0, 0]
    monkeypatch.setattr("data_prep.image_task.preprocess_native", sometimes)
    prepare(source, tmp_path / "out", settings())
    reason = quarantined(tmp_path / "out")["hy0.png"]
    assert "a defect of the program" in reason and "boom" not in reason


def contents(out: Path) -> dict[str, bytes]:
    """All files of a data set by name."""
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def test_an_interrupted_run_leaves_nothing_whole_and_is_resumed(tmp_path, monkeypatch):
    rows, images = ordinary()
    source = labelled(tmp_path / "in", rows, images)
    prepare(source, tmp_path / "reference", settings())
    computed = []

    def interrupted(*arguments):
        computed.append(arguments)
        if len(computed) == 31:
            raise KeyboardInterrupt
        return compute(*arguments)

    compute = image_task._compute
    monkeypatch.setattr("data_prep.image_task._compute", interrupted)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        prepare(source, out, settings())
    assert not out.exists()
    # A file that was cut off while it was written is not taken for a finished one.
    damaged = next((tmp_path / "out.partial/cache").glob("*.npz"))
    damaged.write_bytes(damaged.read_bytes()[:-40])
    prepare(source, out, settings())
    assert len(computed) == 31 + 30 + 1
    assert contents(out) == contents(tmp_path / "reference")
    assert not (tmp_path / "out.partial").exists()


def test_workers_and_the_order_of_rows_change_nothing(tmp_path):
    rows, images = ordinary()
    rows = [row for row in rows if row["file"] in list(images)[::2]]
    one = labelled(tmp_path / "one", rows, images)
    other = labelled(tmp_path / "other", rows[::-1], images)
    prepare(one, tmp_path / "out1", settings(workers=0))
    prepare(other, tmp_path / "out2", settings(workers=2))
    assert contents(tmp_path / "out1") == contents(tmp_path / "out2")


def test_fingerprint_follows_what_matters(tmp_path):
    rows, images = ordinary()
    source = labelled(tmp_path / "in", rows, images)
    first = prepare(source, tmp_path / "a", settings()).fingerprint
    assert prepare(source, tmp_path / "b", settings()).fingerprint == first
    assert prepare(source, tmp_path / "c", settings(seed=1)).fingerprint != first
    assert prepare(source, tmp_path / "d", settings(aspect="letterbox")).fingerprint != first
    write_image(source / "hy0.png", 9999)
    assert prepare(source, tmp_path / "e", settings()).fingerprint != first


def test_given_splits_are_kept_and_leaks_in_them_are_errors(tmp_path):
    rows, images = ordinary()
    for i, row in enumerate(rows):
        row["split"] = ("train", "train", "train", "val", "test")[i % 5]
    source = labelled(tmp_path / "in", rows, images)
    prepare(source, tmp_path / "out", settings())
    given = {row["file"]: row["split"] for row in rows}
    assert {row["file"]: row["split"] for row in read_csv(tmp_path / "out/manifest.csv")} == given
    write_image(source / "hy4.png", images["hy0.png"])
    with pytest.raises(UserError, match=r"hy0\.png \(train\) and hy4\.png \(test\)"):
        prepare(source, tmp_path / "leak", settings(duplicates="keep"))


def test_a_copy_given_to_another_split_stops_the_run(tmp_path):
    """With the usual settings, under which exact copies are dropped."""
    rows, images = ordinary()
    for i, row in enumerate(rows):
        row["split"] = ("train", "train", "train", "val", "test")[i % 5]
    images["hy4.png"] = images["hy0.png"]
    source = labelled(tmp_path / "in", rows, images)
    with pytest.raises(UserError, match=r"the given splits leak: hy0\.png \(train\) and hy4\.png \(test\)"):
        prepare(source, tmp_path / "out", settings())


def test_missing_patient_ids_and_rare_classes_are_said_aloud(folders, tmp_path):
    for i in range(2, 10):
        (folders / "Osteoporosis" / f"{i}.png").unlink()
    result = prepare(folders, tmp_path / "out", settings())
    text = " | ".join(result.warnings)
    assert "22 of 22 images have no patient_id" in text
    assert "has no image of osteoporosis" in text
    page = (tmp_path / "out/report.html").read_text()
    assert "no patient_id" in page
    audit = json.loads((tmp_path / "out/audit.json").read_text())
    assert audit["warnings"] == list(result.warnings)


def test_hostile_names_are_escaped_in_the_report(tmp_path):
    rows, images = ordinary()
    name = "<script>alert(1)<&>.png"
    rows[0]["file"], images[name] = name, images.pop("hy0.png")
    rows.append({"file": "<img src=x>.png", "label": "nobody", "patient_id": "", "age": ""})
    prepare(labelled(tmp_path / "in", rows, images), tmp_path / "out", settings())
    page = (tmp_path / "out/report.html").read_text()
    assert "<script>" not in page and "<img src=x>" not in page
    assert "&lt;script&gt;" in page and "&lt;img src=x&gt;" in page
    assert read_csv(tmp_path / "out/manifest.csv")[0]["file"] == name


def test_dicom_patients_are_grouped_without_naming_them(tmp_path):
    root = tmp_path / "in"
    for c, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for i in range(12):
            pixels = np.random.default_rng(100 * c + i).integers(0, 4096, (48, 40), dtype=np.uint16)
            data = dicom(
                pixels, 12, PatientID=f"SECRET{c}{i // 2}", PatientAge="061Y", PatientName="Doe^Jane"
            )
            (root / name / f"{i}.dcm").write_bytes(data)
    result = prepare(root, tmp_path / "out", settings())
    manifest = read_csv(tmp_path / "out/manifest.csv")
    assert len({row["patient_id"] for row in manifest}) == 18
    assert all(row["age"] == "61" for row in manifest)
    assert any("DICOM PatientID" in text for text in result.warnings)
    files = [path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert not any(b"SECRET" in data or b"Doe^Jane" in data for data in files)
    builder = tfds.builder_from_directory(str(tmp_path / "out"))
    examples = [e for split in builder.info.splits for e in builder.as_data_source(split)]
    assert not any("SECRET" in str(e) or "Doe^Jane" in str(e) for e in examples)


def test_the_phantom_knows_what_denoising_gains(tmp_path):
    out = tmp_path / "out"
    config = settings(seed=3)
    config.phantom.n_patients = 12
    config.phantom.images_per_patient = (1, 1)
    config.phantom.image_size = (96, 96)
    config.phantom.class_balance = (1, 1, 1)
    result = prepare("phantom", out, config)
    assert sum(result.images.values()) == 12
    quality = json.loads((out / "denoising.json").read_text())
    assert quality["mean"] == pytest.approx(dict(result.denoising))
    file, measured = next(iter(quality["per_image"].items()))
    noisy = np.asarray(Image.open(out / "phantom" / file), np.float64) / 255
    clean = np.asarray(Image.open(out / "phantom/clean" / Path(file).name), np.float64) / 65535
    assert measured["psnr_before"] == pytest.approx(-10 * np.log10(np.mean((noisy - clean) ** 2)), abs=1e-3)
    assert measured["psnr_after"] == measured["psnr_before"]  # backend none
    assert "mean PSNR" in (out / "report.html").read_text()
    config.phantom.quanta = -1.0
    with pytest.raises(UserError, match="quanta"):
        prepare("phantom", tmp_path / "other", config)


def test_source_and_destination_must_lie_apart(folders, tmp_path):
    for out in (folders, folders / "out", tmp_path):
        with pytest.raises(UserError, match="lie in each other"):
            prepare(folders, out, settings())


def test_a_run_that_did_nothing_leaves_nothing(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        prepare(tmp_path / "none", tmp_path / "out", settings())
    assert not list(tmp_path.iterdir())


def test_two_runs_on_one_destination(folders, tmp_path):
    (tmp_path / "out.partial").mkdir()
    with (tmp_path / "out.partial/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another run"):
            prepare(folders, tmp_path / "out", settings())


def test_a_second_run_leaves_the_first_ones_work_alone(tmp_path):
    with open_workdir(tmp_path / "out") as first:
        (first.cache / "begun.tmp").touch()
        with pytest.raises(UserError, match="another run"), open_workdir(tmp_path / "out"):
            pytest.fail("two runs in one folder")
        assert (first.cache / "begun.tmp").exists()
    assert not first.folder.exists()


@pytest.mark.slow
def test_a_killed_command_leaves_no_workers_and_is_resumed(tmp_path):
    rows, images = ordinary(30)
    source = labelled(tmp_path / "in", rows, images)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "osteojax.cli", "prep", f"--source={source}", f"--out={out}"]
    overrides = ["--config.denoise.backend=none", "--config.image_size=32"]
    command += [*overrides, "--config.workers=2"]
    process = subprocess.Popen(command)
    cache = tmp_path / "out.partial/cache"
    while len(list(cache.glob("*.npz"))) < 5:
        assert process.poll() is None, "finished before it could be killed"
        time.sleep(0.005)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    assert workers and not out.exists()
    psutil.wait_procs(workers, timeout=20)
    assert not [worker for worker in workers if worker.is_running()]
    subprocess.run(command, check=True)
    config = configs.load("configs/prep/prep.py", [*overrides, "--config.workers=0"])
    prepare(source, tmp_path / "reference", config)
    assert contents(out) == contents(tmp_path / "reference")


@pytest.mark.slow
def test_real_knees_contradict_themselves(shared, tmp_path):
    result = prepare(shared / "data/knee", tmp_path / "out", settings(image_size=64))
    audit = json.loads((tmp_path / "out/audit.json").read_text())
    conflicts = [{i["file"] for i in group} for group in audit["conflicts"]]
    assert {"normal/N15.jpg", "osteopenia/OP73.jpg"} in conflicts  # as the data's README says
    assert len(conflicts) <= 7
    assert sum(result.images.values()) + result.quarantined == 196


def test_equal_runs_of_two_processes_are_equal_byte_by_byte(tmp_path):
    rows, images = ordinary()
    source = labelled(tmp_path / "in", rows, images)
    flags = ["--config.denoise.name=none", "--config.image_size=32", "--config.audit.shortcuts=False"]
    for name, workers, seed in (("a", "0", "1"), ("b", "2", "2")):
        command = [
            sys.executable,
            "-m",
            "osteojax",
            "prep",
            f"--source={source}",
            f"--out={tmp_path / name}",
            *flags,
        ]
        environment = os.environ | {"PYTHONHASHSEED": seed}
        subprocess.run(
            [*command, f"--config.workers={workers}"], check=True, env=environment, capture_output=True
        )
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_link_at_out_is_followed_not_replaced(tmp_path, folders):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere")
    prepare(folders, tmp_path / "out", settings())
    assert (tmp_path / "out").is_symlink() and (tmp_path / "elsewhere/dataset_info.json").is_file()


def test_a_mount_point_at_out_is_filled_not_replaced(tmp_path, folders, monkeypatch):
    out = tmp_path / "mounted"
    (out / "lost+found").mkdir(parents=True)
    before = out.stat().st_ino
    monkeypatch.setattr("os.path.ismount", lambda path: Path(path) == out)
    prepare(folders, out, settings())
    assert out.stat().st_ino == before and sorted(tfds.builder_from_directory(str(out)).info.splits)
    assert not (out / ".partial").exists()
    prepare(folders, out, settings(overwrite=True, seed=1))
    assert out.stat().st_ino == before and (out / "dataset_info.json").is_file()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_full_disk_is_one_sentence_and_the_run_goes_on_after_it(tmp_path, folders):
    out = tmp_path / "disk"
    out.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", out], capture_output=True
    ).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        with pytest.raises(UserError, match="no space is left"):
            prepare(folders, out, settings(image_size=64))
        assert not (out / "dataset_info.json").exists()
        subprocess.run(["mount", "-o", "remount,size=20m", out], check=True)
        prepare(folders, out, settings(image_size=64))
        assert (out / "dataset_info.json").is_file() and (out / "manifest.csv").is_file()
    finally:
        subprocess.run(["umount", out], check=True)


def test_a_file_that_goes_during_the_run_is_quarantined(tmp_path, folders, monkeypatch):
    read = image_task.read_bytes

    def going(path, limits):
        if path.name == "3.png" and "Normal" in str(path):
            path.unlink(missing_ok=True)
        return read(path, limits)

    monkeypatch.setattr("data_prep.image_task.read_bytes", going)
    prepare(folders, tmp_path / "out", settings())
    assert quarantined(tmp_path / "out") == {"Normal/3.png": "no such file"}
    monkeypatch.setattr("data_prep.image_task.read_bytes", read)
    done = image_task.prepare_image

    def then_gone(task):
        result = done(task)
        task.path.unlink(missing_ok=True)
        return result

    monkeypatch.setattr("data_prep.runner.prepare_image", then_gone)
    assert prepare(folders, tmp_path / "again", settings()).images["train"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"workers": -5}, "workers is -5; it must be a whole number at least -1"),
        ({"image_size": 0}, "image_size is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"split__train": 2.0}, r"split\.train is 2\.0"),
        ({"split__train": 0.5}, "add up to 1"),
        ({"quarantine__max_fraction": 3.0}, r"quarantine\.max_fraction"),
        ({"limits__max_pixels": -1}, r"limits\.max_pixels"),
        ({"aspect": "stretch"}, "aspect is 'stretch'; it must be one of 'squash', 'letterbox'"),
        ({"denoise__backend": "abacus"}, r"denoise\.backend is 'abacus'"),
        ({"denoise__name": "magic"}, "no denoiser 'magic'; there are"),
        ({"class_names": (0, 1, 2)}, r"class_names\[0\] is 0; it must be text"),
        ({"duplicates": None}, "duplicates is None"),
    ],
)
def test_settings_are_checked_before_anything_is_written(tmp_path, folders, changes, message):
    changes = {"denoise__backend": "numba", **changes}
    with pytest.raises(UserError, match=message):
        prepare(folders, tmp_path / "out", settings(**changes))
    assert not list(tmp_path.glob("out*"))


def test_cells_and_names_that_are_formulas_are_neutralised(tmp_path):
    rows, images = ordinary()
    images["=cmd.png"] = 5000
    rows.append({**rows[0], "file": "=cmd.png", "patient_id": "@SUM(1)"})
    source = labelled(tmp_path / "in", rows, images)
    (source / "-x.png").write_bytes(b"no image")
    with (source / "labels.csv").open("a", newline="") as stream:
        csv.writer(stream).writerow(["-x.png", "healthy", *[""] * (len(rows[0]) - 2)])
    prepare(source, tmp_path / "out", settings())
    files = {row["file"]: row for row in read_csv(tmp_path / "out/manifest.csv")}
    assert "'=cmd.png" in files and files["'=cmd.png"]["patient_id"] == "'@SUM(1)"
    assert list(quarantined(tmp_path / "out")) == ["'-x.png"]


def test_names_of_files_can_be_left_out_of_everything(tmp_path):
    rows, images = ordinary()
    renamed = {f"DOE^JANE_1.2.840.113619.2.5.{i}.png": seed for i, seed in enumerate(images.values())}
    rows = [{**row, "file": name} for row, name in zip(rows, renamed, strict=True)]
    source = labelled(tmp_path / "in2", rows, renamed)
    kept = prepare(source, tmp_path / "kept", settings())
    assert any("look like UIDs" in text for text in kept.warnings)
    hidden = prepare(source, tmp_path / "hidden", settings(privacy__file_names="hash"))
    assert not any("look like UIDs" in text for text in hidden.warnings)
    for path in (p for p in (tmp_path / "hidden").rglob("*") if p.is_file()):
        assert b"DOE^JANE" not in path.read_bytes() and b"1.2.840" not in path.read_bytes(), path
    assert kept.images == hidden.images


def test_the_cache_does_not_tell_whose_images_it_holds(tmp_path, monkeypatch):
    source = tmp_path / "in"
    for i in range(12):
        folder = source / CLASSES[i % 3]
        folder.mkdir(parents=True, exist_ok=True)
        stored = np.random.default_rng(i).integers(0, 4096, (40, 50), dtype=np.uint16)
        (folder / f"{i}.dcm").write_bytes(dicom(stored, 12, PatientID=f"DOE{i}", PatientName="Doe^Jane"))
    monkeypatch.setattr(
        "data_prep.prepare.write_report", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        prepare(source, tmp_path / "out", settings())
    partial = tmp_path / "out.partial"
    assert (partial / "secret").stat().st_mode & 0o777 == 0o600
    for entry in (partial / "cache").glob("*.npz"):
        with np.load(entry) as stored:
            text = str(stored["result"])
        assert "DOE" not in text and "Jane" not in text
        for i in range(12):
            assert hashlib.sha256(f"DOE{i}".encode()).hexdigest() not in text


def test_a_phantoms_workers_end_with_their_parent(tmp_path):
    command = [
        *(sys.executable, "-m", "osteojax", "prep", "--source=phantom", f"--out={tmp_path / 'out'}"),
        *("--config.phantom.n_patients=200", "--config.workers=2"),
    ]
    parent = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    process = psutil.Process(parent.pid)
    deadline = time.monotonic() + 60
    while len(children := process.children(recursive=True)) < 3 and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(1.5)  # the workers have started what makes them end
    parent.kill()
    parent.wait()
    assert children
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive


def test_dates_of_headers_and_tables_decide_and_stand_nowhere(tmp_path):
    """Later patients are tested; of the dates not a digit beyond the year is in any file."""
    root = tmp_path / "source"
    lines = ["file,label,patient_id,date"]
    for i in range(30):
        root.mkdir(exist_ok=True)
        stored = np.random.default_rng(i).integers(0, 4096, (48, 40)).astype(np.uint16)
        headers = {"AcquisitionDate": f"201{i % 3}0417"} if i % 2 else {"StudyDate": f"201{i % 3}0417"}
        (root / f"{i}.dcm").write_bytes(dicom(stored, 12, PatientID=f"p{i}", **headers))
        lines.append(f"{i}.dcm,{CLASSES[i // 3 % 3]},p{i},{f'201{i % 3}-05-23' if i < 15 else ''}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    out = tmp_path / "out"
    prepare(root, out, settings(split__by="date", split__after="2011-12-31"))
    rows = {row["file"]: row for row in read_csv(out / "manifest.csv")}
    assert {file for file, row in rows.items() if row["split"] == "test"} == {
        f"{i}.dcm" for i in range(2, 30, 3)
    }
    assert {row["date"] for row in rows.values()} == {"", "2010", "2011", "2012"}
    for path in out.rglob("*"):
        if path.is_file():
            assert not re.search(rb"201[012]-?(0417|04-17|0523|05-23)", path.read_bytes()), path
    report = (out / "report.html").read_text()
    assert "split.by=date, split.after=2011-12-31" in report


def test_a_fold_that_nobody_is_left_for_is_told(tmp_path):
    root = tmp_path / "source"
    lines = ["file,label,site"]
    for i in range(18):
        write_image(root / f"{i}.png", i)
        lines.append(f"{i}.png,{CLASSES[i % 3]},s{i % 2}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match="is empty: there are 2 groups for 3 splits"):
        prepare(root, tmp_path / "out", settings(split__by="site", split__folds=3))
    found = prepare(root, tmp_path / "out", settings(split__by="site", split__test_values=("s1",)))
    assert found.images["test"] == 9
