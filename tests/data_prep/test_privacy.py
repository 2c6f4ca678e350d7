"""No identifier of a header leaves it: every attribute of PS3.15, E.1-1 holds a marker, and all bytes are searched."""

import csv
import io
import json
import logging
import shutil
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from data_prep import image_task, prepare
from data_prep.prepare import audit_source
from data_prep.pseudonym import ENVIRONMENT, named_key, pseudonym
from data_prep.workers import WorkerDied, run_tasks
from osteojax import config as configs
from osteojax.cli.main import run as command
from osteojax.errors import UserError
from tests.data_prep.decode.dicom_files import dicom
from tests.data_prep.decode.marked import (
    IDENTIFYING,
    MARKER,
    broken,
    leaks,
    marked,
    odd_presentation,
    pictures,
)

CLASSES = ("healthy", "osteopenia", "osteoporosis")
QUICK = (
    *("--config.denoise.backend=none", "--config.image_size=32", "--config.workers=0"),
    *(
        "--config.audit.near_duplicates=False",
        "--config.audit.shortcuts=False",
        "--config.quarantine.max_fraction=0.9",
    ),
)


def settings(**privacy):
    config = configs.load("configs/prep/prep.py")
    config.update(image_size=32, workers=0)
    config.denoise.backend = "none"
    config.audit.update(near_duplicates=False, shortcuts=False)
    config.privacy.update(**privacy)
    return config


def telling(folder: Path) -> Path:
    """Class folders of files that tell everything: good ones, and one of each way of being unusable."""
    for c, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for i in range(10):
            pixels = np.random.default_rng(100 * c + i).integers(0, 4096, (48, 40))
            data = marked(pixels, valid=i % 2 == 0, PatientID=f"{MARKER}{c}{i // 2}", BodyPartExamined="KNEE")
            (folder / name / f"{i}.dcm").write_bytes(odd_presentation(pixels) if i == 9 else data)
    pixels = np.random.default_rng(9).integers(0, 4096, (48, 40))
    files = broken(marked(pixels, valid=True), pixels) | pictures((pixels // 16).astype(np.uint8))
    files |= {f"half-{name}": data[: len(data) * 2 // 3] for name, data in files.items() if name[:2] == "a."}
    for name, data in files.items():
        (folder / "healthy" / name).write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return telling(tmp_path_factory.mktemp("telling") / "in")


def told(folder: Path) -> list[tuple[str, list[str]]]:
    """What leaks from the files below a folder: from their names, bytes, archives' members and records."""
    found = []
    for path in (path for path in folder.rglob("*") if path.is_file()):
        parts = {path.name: path.read_bytes(), "its name": str(path.relative_to(folder)).encode()}
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                parts |= {name: archive.read(name) for name in archive.namelist()}
        found += [(f"{path} {name}", leaks(data)) for name, data in parts.items() if leaks(data)]
    for info in folder.rglob("dataset_info.json"):
        builder = tfds.builder_from_directory(str(info.parent))
        for split in builder.info.splits:
            for example in builder.as_data_source(split):
                text = "\n".join(str(value) for key, value in example.items() if key != "image").encode()
                text += example["image"].tobytes()
                if leaks(text):
                    found.append((f"{info} {split}", leaks(text)))
    return found


def manifest(out: Path) -> list[dict[str, str]]:
    with (out / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_the_files_do_tell():
    """What the other tests search for is there, in every attribute."""
    pixels = np.random.default_rng(0).integers(0, 4096, (48, 40))
    whole = marked(pixels, valid=True)
    assert len(IDENTIFYING) > 600
    assert {"LEAKQ", "77317731", "19470329", "173159"} <= set(leaks(whole))
    assert leaks(MARKER.encode("utf-16")) == leaks(MARKER.lower().encode()) == [MARKER]
    for keyword in (
        "PatientName",
        "InstitutionName",
        "StudyDescription",
        "OperatorsName",
        "DeviceSerialNumber",
    ):
        assert keyword in IDENTIFYING


@pytest.mark.parametrize("name", ["prep", "audit"])
def test_nothing_of_a_header_is_told(name, source, tmp_path, capfd, caplog):
    with caplog.at_level(logging.DEBUG):
        assert command([name, f"--source={source}", f"--out={tmp_path / 'out'}", *QUICK]) == 0
    assert told(tmp_path) == []
    written = capfd.readouterr()
    heard = "\n".join(f"{record.getMessage()} {record.exc_text}" for record in caplog.records)
    assert leaks((written.out + written.err + heard).encode()) == []
    rows = manifest(tmp_path / "out")
    assert len({row["patient_id"] for row in rows if row["patient_id"].startswith("dicom-")}) > 10
    assert {row["age"] for row in rows} == {"", "93"} and {row["sex"] for row in rows if "sex" in row} <= {
        "",
        "F",
    }
    assert {row["site"] for row in rows} == {"", "KNEE"}


def test_nothing_is_told_by_a_run_that_is_refused(source, tmp_path, capfd):
    refused = [*QUICK, "--config.quarantine.max_fraction=0.0"]
    assert command(["prep", f"--source={source}", f"--out={tmp_path / 'out'}", *refused]) == 2
    by_date = [*QUICK, "--config.split.by=date", "--config.split.test_values=('2001-01-01',)"]
    assert command(["prep", f"--source={source}", f"--out={tmp_path / 'dates'}", *by_date]) == 2
    written = capfd.readouterr()
    assert "images have no date" in written.err and leaks((written.out + written.err).encode()) == []
    assert [one for one in told(tmp_path) if "dates.partial/cache" not in one[0]] == []  # docs/privacy.md


def test_nothing_is_told_when_the_work_is_killed_or_fails(source, tmp_path, caplog, monkeypatch, capfd):
    def fails(pixels, *arguments):
        if pixels[0, 0] > 2000:
            raise RuntimeError(f"{MARKER} of an image")
        return preprocess(pixels, *arguments)

    def kills(function, tasks, workers, **_):
        for index, found in run_tasks(function, tasks, workers):
            yield index, WorkerDied() if index % 7 == 0 else found

    preprocess = image_task.preprocess_native
    monkeypatch.setattr(image_task, "preprocess_native", fails)
    monkeypatch.setattr("data_prep.runner.run_tasks", kills)
    monkeypatch.setattr(prepare, "write_report", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
    with caplog.at_level(logging.DEBUG):
        assert command(["prep", f"--source={source}", f"--out={tmp_path / 'out'}", *QUICK]) == 130
    assert "RuntimeError at" in caplog.text and "called from" in caplog.text
    written = capfd.readouterr()
    assert leaks((caplog.text + written.out + written.err).encode()) == []
    assert len(list((tmp_path / "out.partial/cache").glob("*.npz"))) > 5
    assert told(tmp_path) == []


def plain(folder: Path, *, table: bool = False) -> Path:
    """36 images of 18 patients, whose ids are in the headers or in a table."""
    rows = []
    for i in range(36):
        stored = np.random.default_rng(i).integers(0, 4096, (48, 40), dtype=np.uint16)
        name = f"{CLASSES[i // 2 % 3]}/{i}.dcm"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        patient = {} if table else {"PatientID": f"DOE^JANE{i // 2}"}
        (folder / name).write_bytes(dicom(stored, 12, **patient))
        rows.append((name, CLASSES[i // 2 % 3], f"{'doe-jane' if i == 35 else 'DOE^JANE'}{i // 2}"))
    if table:
        with (folder / "labels.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows([("file", "label", "patient_id"), *rows])
    return folder


def patients(out: Path) -> list[str]:
    return [row["patient_id"] for row in manifest(out)]


@pytest.mark.parametrize("table", [True, False])
def test_hashed_patients_are_the_same_under_one_key_and_others_under_another(tmp_path, monkeypatch, table):
    source = plain(tmp_path / "in", table=table)
    key = tmp_path / "key"
    key.write_text("a key of more than 16 bytes\n")
    results = {}
    for name, options in {"a": {"key_file": str(key)}, "b": {"key_file": str(key)}, "c": {}, "d": {}}.items():
        results[name] = prepare.prepare(source, tmp_path / name, settings(patient_ids="hash", **options))
    monkeypatch.setenv(ENVIRONMENT, " a key of more than 16 bytes ")
    prepare.prepare(source, tmp_path / "e", settings(patient_ids="hash"))
    assert patients(tmp_path / "a") == patients(tmp_path / "b") == patients(tmp_path / "e")
    assert results["a"].fingerprint == results["b"].fingerprint
    distinct = {tuple(patients(tmp_path / name)) for name in "acd"}
    assert len(distinct) == 3 and not set.intersection(*map(set, distinct))
    assert len(set(patients(tmp_path / "a"))) == (19 if table else 18)
    for out in map(tmp_path.joinpath, "abcde"):
        for path in (path for path in out.rglob("*") if path.is_file()):
            data = path.read_bytes()
            assert b"DOE^JANE" not in data and b"doe-jane" not in data and b"more than 16" not in data, path
        builder = tfds.builder_from_directory(str(out))
        examples = [e for split in builder.info.splits for e in builder.as_data_source(split)]
        assert {e["patient_id"].decode() for e in examples} == set(patients(out))
    if table:  # variants are noticed although their pseudonyms have nothing in common
        (warning,) = [text for text in results["a"].warnings if "seem to have several ids" in text]
        assert "DOE" not in warning and "patient-" in warning


def test_a_named_key_is_never_stored_and_a_killed_run_goes_on_with_it(tmp_path, monkeypatch):
    source, key = plain(tmp_path / "in"), tmp_path / "key"
    key.write_bytes(b"\x01\x02 of 16 bytes and more")
    config = settings(patient_ids="hash", file_names="hash", key_file=str(key))
    whole = prepare.prepare(source, tmp_path / "whole", config)
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "write_report", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare.prepare(source, tmp_path / "out", config)
    partial = tmp_path / "out.partial"
    assert not (partial / "secret").exists()
    assert not any(b"of 16 bytes" in path.read_bytes() for path in partial.rglob("*") if path.is_file())
    held = {path.name: path.stat().st_mtime_ns for path in (partial / "cache").glob("*.npz")}
    # With another key nothing in the cache is taken, or one patient would have two pseudonyms.
    entry = np.load(next((partial / "cache").glob("*.npz")))
    pseudonyms = json.loads(str(entry["result"]))["patient"]
    assert pseudonyms in {pseudonym(key.read_bytes(), "PatientID", f"DOE^JANE{i}") for i in range(18)}
    with monkeypatch.context() as patch:
        patch.setattr(image_task, "decode", lambda *a: pytest.fail("computed again"))
        resumed = prepare.prepare(source, tmp_path / "out", config)
    assert resumed.fingerprint == whole.fingerprint and len(held) == 36
    assert (tmp_path / "out/manifest.csv").read_bytes() == (tmp_path / "whole/manifest.csv").read_bytes()


def test_another_key_takes_nothing_from_the_cache(tmp_path, monkeypatch):
    source = plain(tmp_path / "in")
    monkeypatch.setenv(ENVIRONMENT, "first key, of 16 bytes")
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "write_report", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare.prepare(source, tmp_path / "out", settings(patient_ids="hash"))
    monkeypatch.setenv(ENVIRONMENT, "second key, of 16 bytes")
    prepare.prepare(source, tmp_path / "out", settings(patient_ids="hash"))
    prepare.prepare(source, tmp_path / "fresh", settings(patient_ids="hash"))
    assert patients(tmp_path / "out") == patients(tmp_path / "fresh")


def test_a_random_key_is_gone_when_the_dataset_is_there(tmp_path, monkeypatch):
    source = plain(tmp_path / "in")
    seen = []
    write = prepare.write_report

    def look(path, **arguments):
        secret = tmp_path / "out.partial/secret"
        seen.append((secret.read_bytes(), stat.S_IMODE(secret.stat().st_mode)))
        write(path, **arguments)

    monkeypatch.setattr(prepare, "write_report", look)
    prepare.prepare(source, tmp_path / "out", settings(patient_ids="hash"))
    ((secret, mode),) = seen
    assert len(secret) == 32 and mode == 0o600 and not (tmp_path / "out.partial").exists()
    assert not any(secret in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: No such file"),
        (b"short", "of 5 bytes"),
        (b" " * 99, "of 0 bytes"),
        (b"x" * 2**17, "bytes; 16 to"),
    ],
)
def test_a_key_that_will_not_do_is_refused_without_being_told(tmp_path, content, said):
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=said) as refusal:
        named_key(str(path))
    assert "short" not in str(refusal.value)


@pytest.mark.parametrize("path", ["/", "a\0b", "/dev/null", "/proc/self/mem"])
def test_a_key_file_that_is_none_is_refused(path):
    with pytest.raises(UserError, match="key_file="):
        named_key(path)


def test_an_empty_variable_is_a_key_that_will_not_do(monkeypatch):
    monkeypatch.setenv(ENVIRONMENT, "")
    with pytest.raises(UserError, match=f"the variable {ENVIRONMENT} holds a key of 0 bytes"):
        named_key("")


def test_a_table_of_splits_may_have_either_ids(tmp_path):
    source = plain(tmp_path / "in", table=True)
    key = tmp_path / "key"
    key.write_bytes(b"x" * 32)
    options = {"patient_ids": "hash", "key_file": str(key)}
    prepare.prepare(source, tmp_path / "first", settings(**options))
    rows = manifest(tmp_path / "first")
    raw = {row["file"]: row["patient_id"] for row in csv.DictReader((source / "labels.csv").open())}
    for name, of in {"hashed": lambda row: row["patient_id"], "raw": lambda row: raw[row["file"]]}.items():
        table = tmp_path / f"{name}.csv"
        with table.open("w", newline="") as stream:
            csv.writer(stream).writerows(
                [("patient_id", "split"), *sorted({(of(row), row["split"]) for row in rows})]
            )
        config = settings(**options)
        config.split.file = str(table)
        prepare.prepare(source, tmp_path / name, config)
        assert [row["split"] for row in manifest(tmp_path / name)] == [row["split"] for row in rows]


@pytest.mark.parametrize("table", [True, False])
def test_hidden_names_are_in_no_warning_reason_or_line(tmp_path, capfd, caplog, table):
    name = "DOE^JANE"
    source = tmp_path / "in"
    rows = []
    for i in range(30):
        path = source / CLASSES[i % 3] / f"{name}{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (48, 40), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        rows.append((str(path.relative_to(source)), CLASSES[i % 3]))
    shutil.copy(path, path.with_name(f"{name}copy.png"))
    (source / "healthy" / f"{name}.txt").write_text("no picture")
    (source / name).mkdir()
    (source / name / "x.png").write_bytes(b"no picture")
    (source / f"{name}.md").write_text("about")
    if table:
        rows += [(f"healthy/{name}0.jpg", "healthy"), (rows[1][0].upper(), CLASSES[1])]
        del rows[1]
        with (source / "labels.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows([("file", "label"), *rows])
    with caplog.at_level(logging.DEBUG):
        status = command([
            "prep", f"--source={source}", f"--out={tmp_path / 'out'}", *QUICK, "--config.privacy.file_names=hash",
        ])  # fmt: skip
    assert status == 0
    written = capfd.readouterr()
    assert name not in (written.out + written.err + caplog.text).upper()
    for path in (path for path in (tmp_path / "out").rglob("*") if path.is_file()):
        assert name.encode() not in path.read_bytes().upper(), path


def dicom_files(folder, headers):
    """A folder of classes with a DICOM file of noise for each header."""
    for i, header in enumerate(headers):
        stored = np.random.default_rng(i).integers(0, 4096, (48, 40), dtype=np.uint16)
        path = folder / CLASSES[i % 3] / f"{i}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dicom(stored, 12, **header))
    return folder


def test_a_date_lies_in_the_cache_only_where_the_split_asks_for_it(tmp_path, monkeypatch):
    headers = [{"PatientID": f"P{i}", "StudyDate": f"20{10 + i % 9}0703"} for i in range(30)]
    source = dicom_files(tmp_path / "in", headers)
    monkeypatch.setattr(prepare, "write_report", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
    for after, held in (("", False), ("2016", True)):
        config = settings()
        if after:
            config.split.update(by="date", after=after)
        with pytest.raises(KeyboardInterrupt):
            prepare.prepare(source, tmp_path / f"out{after}", config)
        entries = [str(np.load(p)["result"]) for p in (tmp_path / f"out{after}.partial/cache").glob("*.npz")]
        assert len(entries) == 30 and all(("-07-03" in entry) == held for entry in entries)


def lettered(folder: Path) -> Path:
    """24 images, of which every fourth has a name written into it."""
    for i in range(24):
        path = folder / CLASSES[i % 3] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(i, written=i % 4 == 0))
    return folder


def picture(seed: int, *, written: bool) -> bytes:
    import cv2

    rng = np.random.default_rng(seed)
    grey = np.add.outer(np.linspace(30, 150, 200), np.linspace(0, 40, 160)) + rng.normal(0, 4, (200, 160))
    grey = grey.clip(0, 255).astype(np.uint8)
    if written:
        cv2.putText(grey, "DOE JANE", (20, 30), cv2.FONT_HERSHEY_SIMPLEX, 0.6, 255, 1, cv2.LINE_AA)
    stream = io.BytesIO()
    Image.fromarray(grey).save(stream, "PNG")
    return stream.getvalue()


def test_writing_is_flagged_by_default_and_changes_no_pixel(tmp_path):
    source = lettered(tmp_path / "in")
    ignored = prepare.prepare(source, tmp_path / "ignored", settings(burned_in="ignore"))
    flagged = prepare.prepare(source, tmp_path / "flagged", settings())
    assert ignored.fingerprint == flagged.fingerprint
    assert not any("writing" in text for text in ignored.warnings)
    (warning,) = [text for text in flagged.warnings if "writing" in text]
    assert warning.startswith("6 images seem to have writing")
    noted = {row["file"] for row in manifest(tmp_path / "flagged") if "writing" in row["notes"]}
    assert noted == {f"{CLASSES[i % 3]}/{i}.png" for i in range(0, 24, 4)}
    found = audit_source(source, tmp_path / "audit", settings())
    assert any("6 images seem to have writing" in text for text in found["warnings"])


def test_quarantine_leaves_writing_out(tmp_path):
    config = settings(burned_in="quarantine")
    config.quarantine.max_fraction = 0.5
    result = prepare.prepare(lettered(tmp_path / "in"), tmp_path / "out", config)
    assert result.quarantined == 6 and sum(result.images.values()) == 18
    text = (tmp_path / "out/quarantine.csv").read_text()
    assert text.count("there seems to be writing in the picture (privacy.burned_in)") == 6


def test_masked_writing_is_gone_in_preparation_and_prediction(tmp_path):
    from data_prep.preprocess import PreprocessSpec, preprocess_file

    source = lettered(tmp_path / "in")
    config = settings(burned_in="mask")
    config.image_size = 160
    result = prepare.prepare(source, tmp_path / "out", config)
    assert any("6 images seem to have writing" in text and "masked" in text for text in result.warnings)
    builder = tfds.builder_from_directory(str(tmp_path / "out"))
    spec = PreprocessSpec.from_dict(dict(builder.info.metadata["preprocessing"]))
    assert spec.burned_in == "mask"
    for split in builder.info.splits:
        for example in builder.as_data_source(split):
            file = source / example["file"].decode()
            np.testing.assert_array_equal(example["image"], preprocess_file(file, spec))
            if int(file.stem) % 4 == 0:
                bare = io.BytesIO(picture(int(file.stem), written=False))
                (tmp_path / "bare.png").write_bytes(bare.getvalue())
                assert np.abs(example["image"] - preprocess_file(tmp_path / "bare.png", spec)).max() < 0.2
    kept = prepare.prepare(source, tmp_path / "kept", settings())
    assert kept.fingerprint != result.fingerprint


@pytest.mark.parametrize(
    ("burned_in", "outcome"), [("flag", "note"), ("mask", "note"), ("quarantine", "left out")]
)
def test_what_the_header_says_of_writing_is_honoured(tmp_path, burned_in, outcome):
    source = plain(tmp_path / "in")
    stored = np.random.default_rng(77).integers(0, 4096, (48, 40), dtype=np.uint16)
    (source / "healthy/0.dcm").write_bytes(dicom(stored, 12, PatientID="DOE^JANE0", BurnedInAnnotation="YES"))
    (source / "healthy/1.dcm").write_bytes(
        dicom(stored + 1, 12, PatientID="DOE^JANE0", BurnedInAnnotation="NO")
    )
    result = prepare.prepare(source, tmp_path / "out", settings(burned_in=burned_in))
    said = {row["file"]: row["notes"] for row in manifest(tmp_path / "out")}
    if outcome == "note":
        assert "its header says that text is burned" in said["healthy/0.dcm"] and not said["healthy/1.dcm"]
        assert any("1 images seem to have writing" in text for text in result.warnings)
    else:
        assert "healthy/0.dcm" not in said and result.quarantined == 1


@pytest.mark.parametrize("change", [{"after": "2016"}, {"test_values": ("2001-01-01",)}])
def test_what_stands_in_the_place_of_a_date_is_not_told(tmp_path, change):
    last = MARKER if "after" in change else "19470329"
    source = dicom_files(tmp_path / "in", [{"StudyDate": "19470329"}] * 8 + [{"StudyDate": last}])
    config = settings()
    config.split.update(by="date", **change)
    with pytest.raises(UserError, match=r"1 images have no date|no image has date=") as refusal:
        prepare.prepare(source, tmp_path / "out", config)
    assert leaks(str(refusal.value).encode()) == []
