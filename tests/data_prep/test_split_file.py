"""A given table of splits: verified, not trusted."""

import csv
import shutil

import pytest

from data_prep.prepare import prepare
from data_prep.split_file import SplitFile
from osteojax import config as configs
from osteojax.cli.main import run
from osteojax.errors import UserError
from tests.data_prep.test_prepare import CLASSES, read_csv, settings, write_image


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Two images a patient, class folders' names; one file is broken."""
    root = tmp_path_factory.mktemp("given") / "source"
    lines = ["file,label,patient_id"]
    for n in range(36):
        write_image(root / "a" / f"{n}.png", n)
        lines.append(f"a/{n}.png,{CLASSES[n // 2 % 3]},p{n // 2}")
    (root / "broken.png").write_bytes(b"no image")
    lines.append("broken.png,healthy,p0")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return root


def split_of(n):
    return ("train", "train", "val", "test")[n // 6 % 4]


def table(path, rows, header=("file", "split")):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def rows_of(n=36):
    return [(f"a/{i}.png", split_of(i)) for i in range(n)]


def test_by_file_by_patient_by_id_and_by_a_manifest(source, tmp_path):
    by_file = table(tmp_path / "file.csv", [*rows_of(), ("broken.png", "train")])
    prepare(source, tmp_path / "first", settings(split__file=str(by_file)))
    first = {row["file"]: row["split"] for row in read_csv(tmp_path / "first" / "manifest.csv")}
    assert first == dict(rows_of())
    by_patient = table(
        tmp_path / "p.csv", [(f"p{i}", split_of(2 * i)) for i in range(18)], ("patient_id", "split")
    )
    rows = read_csv(tmp_path / "first" / "manifest.csv")
    by_id = table(tmp_path / "id.csv", [(row["id"], row["split"]) for row in rows], ("id", "Split"))
    backslashes = table(
        tmp_path / "w.csv", [(f.replace("/", "\\"), s) for f, s in rows_of()], ("File", "split")
    )
    for number, path in enumerate((by_patient, by_id, backslashes, tmp_path / "first" / "manifest.csv")):
        out = tmp_path / f"again{number}"
        found = prepare(source, out, settings(split__file=str(path), privacy__file_names="hash"))
        assert {row["id"]: row["split"] for row in read_csv(out / "manifest.csv")} == {
            row["id"]: row["split"] for row in rows
        }
        assert found.images == {"train": 24, "val": 6, "test": 6}


def test_by_folds(source, tmp_path):
    path = table(
        tmp_path / "folds.csv", [(f"p{i}", f"fold{i // 3 % 3}") for i in range(18)], ("patient_id", "split")
    )
    found = prepare(source, tmp_path / "out", settings(split__file=str(path), split__folds=3))
    assert found.images == {"fold0": 12, "fold1": 12, "fold2": 12}
    with pytest.raises(UserError, match=r"p0 \(fold0\).* a split is one of train, val, test"):
        prepare(source, tmp_path / "no", settings(split__file=str(path)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [*rows, ("a/99.png", "train")], r"1 rows are of no file of the source: a/99\.png"),
        (lambda rows: rows[4:], r"no row for 4 images: a/0\.png, a/1\.png, a/2\.png and 1 more"),
        (lambda rows: [*rows, rows[3]], r"more than one row for a/3\.png"),
        (lambda rows: [*rows[:-1], ("a/35.png", "later")], r"a/35\.png \(later\): a split is one of"),
        (lambda rows: [*rows[:-1], ("a/35.png", "")], r"a/35\.png \(\): a split is one of"),
        (
            lambda rows: [*rows[:-1], ("a/35.png", "val")],
            r"the given splits leak: a/34\.png .* and a/35\.png \(val\)",
        ),
        (lambda rows: [], "at least one row"),
    ],
)
def test_what_is_wrong_with_a_table_is_one_sentence_and_nothing_is_written(source, tmp_path, change, message):
    path = table(tmp_path / "split.csv", change(rows_of()))
    with pytest.raises(UserError, match=message):
        prepare(source, tmp_path / "out", settings(split__file=str(path)))
    assert not (tmp_path / "out").exists()


def test_tables_that_cannot_be_read(tmp_path, source, capsys):
    wrong = table(tmp_path / "wrong.csv", [("a", "b")], ("name", "split"))
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00,\x00")
    for path, message in (
        (wrong, "needs the columns split and one of file, id, patient_id"),
        (tmp_path / "none.csv", "cannot be read: No such file"),
        (tmp_path, "cannot be read: Is a directory"),
        (tmp_path / "binary.csv", "no CSV file in UTF-8"),
    ):
        with pytest.raises(UserError, match=message):
            SplitFile.read(path, ("train",))
    flags = [f"--source={source}", f"--out={tmp_path / 'out'}", f"--config.split.file={wrong}"]
    assert run(["prep", *flags]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_copy_in_another_split_is_found_although_the_table_is_by_id(source, tmp_path):
    root = shutil.copytree(source, tmp_path / "source")
    shutil.copy(root / "a" / "0.png", root / "copy.png")
    with (root / "labels.csv").open("a") as file:
        file.write("copy.png,healthy,p99\n")
    patients = [(f"p{i}", split_of(2 * i)) for i in range(18)] + [("p99", "test")]
    path = table(tmp_path / "p.csv", patients, ("patient_id", "split"))
    config = settings(split__file=str(path))
    with pytest.raises(UserError, match=r"the given splits leak: a/0\.png \(train\) and copy\.png \(test\)"):
        prepare(root, tmp_path / "out", config)
    config = configs.from_json(configs.to_json(config))
    config.split.allow_leaky = True
    config.duplicates = "keep"
    found = prepare(root, tmp_path / "out", config)
    assert found.fingerprint.endswith("-leaky")
    assert "7 images that are tested 1 leak (0 by patient, 1 with identical pixels" in found.warnings[-1]


def test_the_source_and_a_table_may_not_both_say(tmp_path):
    root = tmp_path / "source"
    for n in range(6):
        write_image(root / "train" / CLASSES[n % 3] / f"{n}.png", n)
    path = table(tmp_path / "split.csv", [("x", "train")])
    with pytest.raises(UserError, match="and so does the source"):
        prepare(root, tmp_path / "out", settings(split__file=str(path)))
