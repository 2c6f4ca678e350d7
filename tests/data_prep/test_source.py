"""Sources: what is read, and what an untrusted table or folder cannot make us do."""

import os

import pytest

from data_prep.source import read_source
from osteojax.errors import UserError

NAMES = ("healthy", "osteopenia", "osteoporosis")
ALIASES = {"normal": "healthy"}


def table(folder, text, name="labels.csv"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return folder


def reasons(source):
    return {r.file: r.reason for r in source.rejected}


def test_class_folders_nested_any_case_with_alias(tmp_path):
    for file in ("NORMAL/a.png", "Osteopenia/deep/b.png", "osteoporosis/c.png", "other/d.png"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    for clutter in (".DS_Store", "NORMAL/.hidden", "NORMAL/Thumbs.db"):
        (tmp_path / clutter).touch()
    source = read_source(tmp_path, NAMES, ALIASES)
    assert [(r.file, r.label, r.patient_id) for r in source.records] == [
        ("NORMAL/a.png", "healthy", None),
        ("Osteopenia/deep/b.png", "osteopenia", None),
        ("osteoporosis/c.png", "osteoporosis", None),
    ]
    assert list(reasons(source)) == ["other/d.png"] and "'other'" in reasons(source)["other/d.png"]


def test_table_columns_and_metadata(tmp_path):
    table(
        tmp_path,
        "\ufeffFile, Label ,patient_id,split,age,note\n"
        'b.png,Osteopenia,P2,Validation,61,"a, ""b"""\n\n'
        "./a.png,normal,,,,\n",
    )
    for given in (tmp_path, tmp_path / "labels.csv"):
        source = read_source(given, NAMES, ALIASES)
        a, b = source.records
        assert (a.file, a.label, a.patient_id, a.split, dict(a.metadata)) == (
            "a.png",
            "healthy",
            None,
            None,
            {},
        )
        assert (b.patient_id, b.split, dict(b.metadata)) == ("P2", "val", {"age": "61", "note": 'a, "b"'})
        assert source.root == tmp_path


def test_paths_stay_within_the_source(tmp_path):
    outside = tmp_path / "secret.png"
    outside.touch()
    folder = table(
        tmp_path / "source",
        "file,label\n../secret.png,normal\n"
        f"{outside},normal\nsub/../../secret.png,normal\nlink.png,normal\nloop,normal\nin.png,normal\ndir/x,normal\n",
    )
    (folder / "link.png").symlink_to(outside)
    (folder / "loop").symlink_to("loop")
    (folder / "real.png").touch()
    (folder / "in.png").symlink_to("real.png")
    (folder / "dir").symlink_to(tmp_path)
    source = read_source(folder, NAMES, ALIASES)
    assert [r.file for r in source.records] == ["in.png"]
    found = reasons(source)
    assert "leaves the source folder" in found["../secret.png"]
    assert "leaves the source folder" in found[str(outside)]
    assert "leaves the source folder" in found["sub/../../secret.png"]
    assert "link that leaves" in found["link.png"] and "link that leaves" in found["dir/x"]
    assert "loop" in found


def test_links_in_class_folders(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/x.png").touch()
    folder = tmp_path / "source/normal"
    folder.mkdir(parents=True)
    (folder / "folder").symlink_to(tmp_path / "elsewhere")
    (folder / "file.png").symlink_to(tmp_path / "elsewhere/x.png")
    source = read_source(tmp_path / "source", NAMES, ALIASES)
    assert not source.records
    assert set(reasons(source)) == {"normal/folder", "normal/file.png"}


def test_names_that_are_no_text(tmp_path):
    (tmp_path / "normal").mkdir()
    (tmp_path / os.fsdecode(b"normal/\xff.png")).touch()
    source = read_source(tmp_path, NAMES, ALIASES)
    assert not source.records
    assert list(reasons(source).values()) == ["the path is not valid UTF-8 text"]


def test_a_file_listed_twice(tmp_path):
    table(tmp_path, "file,label\na,normal\na,normal\nb,normal\nb,osteopenia\n./c,normal\nc,normal\n")
    source = read_source(tmp_path, NAMES, ALIASES)
    assert [r.file for r in source.records] == ["a", "c"]
    assert reasons(source) == {"b": "listed 2 times with different labels: healthy, osteopenia"}


def test_another_class_list(tmp_path):
    table(tmp_path, "file,label\na,Fracture\nb,intact\nc,normal\n")
    source = read_source(tmp_path, ("intact", "fracture"), ALIASES)
    assert [r.label for r in source.records] == ["fracture", "intact"]
    assert reasons(source) == {"c": "label 'normal' is none of intact, fracture"}


def test_unknown_labels_are_rejected_row_by_row(tmp_path):
    table(tmp_path, "file,label\na,normal\nb,unclear\n")
    source = read_source(tmp_path, NAMES, ALIASES)
    assert len(source.records) == 1 and "'unclear'" in reasons(source)["b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column 'file'"),
        ("file,klass\na,normal\n", "no column 'label'.*file, klass"),
        ("file,label,label\na,normal,normal\n", "a column twice"),
        ("file,label\na,normal,x\n", "line 2: 3 cells"),
        ("file,label\n,normal\n", "line 2: the file is empty"),
        ("file,label,split\na,normal,holdout\n", "split 'holdout'"),
        ("file,label\n", "no images"),
    ],
)
def test_broken_tables_are_errors(tmp_path, text, message):
    table(tmp_path, text)
    with pytest.raises(UserError, match=message):
        read_source(tmp_path, NAMES, ALIASES)


def test_other_broken_sources(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_source(tmp_path / "none", NAMES, ALIASES)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no images"):
        read_source(tmp_path / "empty", NAMES, ALIASES)
    (tmp_path / "latin.csv").write_bytes("file,label\nn\xe4,normal\n".encode("latin-1"))
    with pytest.raises(UserError, match="UTF-8"):
        read_source(tmp_path / "latin.csv", NAMES, ALIASES)
    with pytest.raises(UserError, match="twice"):
        read_source(tmp_path, ("A", "a"), {})


def test_order_does_not_depend_on_the_table(tmp_path):
    rows = [f"{name},normal" for name in ("c", "a", "b")]
    first = read_source(table(tmp_path / "1", "\n".join(["file,label", *rows])), NAMES, ALIASES)
    second = read_source(table(tmp_path / "2", "\n".join(["file,label", *rows[::-1]])), NAMES, ALIASES)
    assert first.records == second.records
    assert [r.file for r in first.records] == ["a", "b", "c"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_table(tmp_path):
    table(tmp_path, "file,label\n")
    (tmp_path / "labels.csv").chmod(0)
    with pytest.raises(UserError, match="cannot be read"):
        read_source(tmp_path, NAMES, ALIASES)
