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
    # Files called by one letter, which most tables here list, exist.
    for file in "abc":
        for suffix in ("", ".png"):
            (folder / f"{file}{suffix}").touch()
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


def tree(folder, *files):
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    return folder


def found(source):
    return {r.file: (r.label, r.split) for r in source.records}


@pytest.mark.parametrize(
    ("given", "split"), [("train", "train"), ("Valid", "val"), ("TESTING", "test"), ("dev", "val")]
)
def test_folders_of_splits_are_given_splits_either_way_round(tmp_path, given, split):
    tree(tmp_path, f"{given}/healthy/a.png", f"osteopenia/{given}/b.png", "osteoporosis/patient7/c.png")
    assert found(read_source(tmp_path, NAMES, ALIASES)) == {
        f"{given}/healthy/a.png": ("healthy", split),
        f"osteopenia/{given}/b.png": ("osteopenia", split),
        "osteoporosis/patient7/c.png": ("osteoporosis", None),
    }


def test_a_class_called_like_a_split_is_a_class(tmp_path):
    tree(tmp_path, "test/a.png", "train/test/b.png", "control/c.png")
    source = read_source(tmp_path, ("control", "test"), {})
    assert found(source) == {
        "test/a.png": ("test", None),
        "train/test/b.png": ("test", "train"),
        "control/c.png": ("control", None),
    }


def test_no_file_vanishes(tmp_path):
    tree(
        tmp_path,
        *(
            "healthy/a.png",
            "loose.png",
            "README.txt",
            "train/loose.png",
            "train/other/b.png",
            "odd/healthy/c.png",
        ),
        *(
            "@eaDir/healthy/a.png",
            "healthy/@eaDir/a.png/thumb.jpg",
            "__MACOSX/healthy/a.png",
            "lost+found/x.png",
        ),
        *(
            "healthy/._a.png",
            "healthy/Thumbs.db",
            "Icon\r",
            ".ipynb_checkpoints/healthy/a.png",
            "#recycle/healthy/a.png",
        ),
    )
    source = read_source(tmp_path, NAMES, ALIASES)
    assert list(found(source)) == ["healthy/a.png"]
    assert set(reasons(source)) == {"loose.png", "train/loose.png", "train/other/b.png", "odd/healthy/c.png"}
    assert "beside the class folders" in reasons(source)["loose.png"]
    assert "'other'" in reasons(source)["train/other/b.png"]
    assert source.warnings == ("1 files beside the class folders are no images, such as README.txt",)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_tables_of_any_separator_encoding_and_line_end(tmp_path, separator, encoding, end):
    tree(tmp_path, "a.png", "b.png")
    rows = (
        ("File ", "Label", "Patient ID", ""),
        ("a.png", "Normal", "7", ""),
        ("b.png", "osteopenia", "8", ""),
    )
    text = end.join(separator.join(row) for row in rows)
    (tmp_path / "labels.csv").write_bytes(text.encode(encoding))
    source = read_source(tmp_path, NAMES, ALIASES)
    assert found(source) == {"a.png": ("healthy", None), "b.png": ("osteopenia", None)}
    assert [r.patient_id for r in source.records] == ["7", "8"]
    assert source.warnings == ("column 'Patient ID' of labels.csv is taken as patient_id",)


def test_a_table_in_another_encoding_is_refused_in_words(tmp_path):
    (tmp_path / "labels.csv").write_bytes("file,label\nm\u00fcller.png,normal\n".encode("latin-1"))
    with pytest.raises(UserError, match="another encoding; save it as UTF-8"):
        read_source(tmp_path, NAMES, ALIASES)


def test_two_columns_that_could_be_the_file(tmp_path):
    table(tmp_path, "filename,path,label\na,b,normal\n")
    with pytest.raises(UserError, match="'filename', 'path' could each be the file"):
        read_source(tmp_path, NAMES, ALIASES)


def test_names_of_other_systems_find_their_files(tmp_path):
    composed, decomposed = "M\u00fcller.png", "Mu\u0308ller.png"
    tree(tmp_path, f"img/{decomposed}", "img/b.PNG", "img/c.png", "img/spare.png")
    rows = (f"img\\{composed},normal", "IMG/B.png,normal", "img/c.jpg,normal", "img/nowhere.png,normal")
    table(tmp_path, "file,label\n" + "\n".join(rows))
    source = read_source(tmp_path, NAMES, ALIASES)
    assert set(found(source)) == {f"img/{decomposed}", "img/b.PNG"}
    assert reasons(source) == {
        "img/c.jpg": "no such file; there is img/c.png",
        "img/nowhere.png": "no such file",
    }
    assert any("in another case" in text and "IMG/B.png" in text for text in source.warnings)
    assert any("files of the source are not in labels.csv" in text for text in source.warnings)


def test_a_name_with_a_backslash_that_exists_is_that_file(tmp_path):
    tree(tmp_path, "odd\\name.png", "odd/name.png")
    table(tmp_path, "file,label\nodd\\name.png,normal\n")
    assert list(found(read_source(tmp_path, NAMES, ALIASES))) == ["odd\\name.png"]


@pytest.mark.parametrize("file", ["C:\\data\\x.png", "..\\x.png", "\\\\server\\x.png", "img\\..\\..\\x.png"])
def test_windows_paths_stay_within_the_source_too(tmp_path, file):
    table(tmp_path, f"file,label\n{file},normal\n")
    assert reasons(read_source(tmp_path, NAMES, ALIASES)) == {file: "the path leaves the source folder"}


@pytest.mark.parametrize("names", [(0, 1, 2), ("a", "a"), ("a", " A "), (), ("a", " "), (None, "a")])
def test_class_names_that_are_none(tmp_path, names):
    table(tmp_path, "file,label\na,a\n")
    with pytest.raises(UserError, match="class_names"):
        read_source(tmp_path, names, {})


def case(shared, name):
    return read_source(shared / "cases" / name / "src", NAMES, ALIASES)


@pytest.mark.parametrize(
    "name",
    ["50-csv-semicolons", "51-csv-backslashes", "52-csv-nfc-file-nfd", "53-csv-bom-crlf", "53b-csv-utf16"],
)
def test_shared_tables_are_read_whole(shared, name):
    source = case(shared, name)
    assert len(source.records) == 18 and not source.rejected


def test_shared_sources_with_their_own_splits(shared):
    for name in ("55-split-over-class", "55b-class-over-split"):
        source = case(shared, name)
        assert not source.rejected
        for record in source.records:
            assert record.split in record.file.lower()


def test_shared_loose_files_have_a_row(shared):
    source = case(shared, "57-loose-files")
    assert len(source.records) == len(source.rejected) == 9


def test_shared_ids(shared):
    assert sum(r.patient_id is None for r in case(shared, "58-ids-nan").records) == 6
    assert {r.patient_id for r in case(shared, "59b-ids-leading-zeros").records} >= {"00000", "00001"}
    assert all(r.patient_id for r in case(shared, "65-id-column-named-otherwise").records)
