"""Object stores: first on a folder that plays one, then on real servers over loopback."""

import dataclasses
import http.client
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import processes
import pytest
import small

from osteojax import storage
from osteojax.errors import UserError
from osteojax.storage import File, Listing, Store

URL = "gs://bones/some/run"


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """A folder that plays the bucket, and a cache."""
    folder = tmp_path / "bucket"
    folder.mkdir()
    monkeypatch.setattr(storage, "_spec", lambda *_: {"driver": "file", "path": f"{folder}/"})
    monkeypatch.setenv("OSTEOJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OSTEOJAX_STORAGE_SECONDS", "0.1")
    return folder


def written(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def texts(folder):
    return {name: (folder / name).read_text() for name in storage.local_names(folder)}


def test_what_is_published_comes_back_and_is_read_only_once(bucket, tmp_path, monkeypatch):
    local = written(tmp_path / "local", a="1", sub__b="2")
    storage.publish(local, Store(URL))
    assert texts(storage.localise(URL)) == {"a": "1", "sub/b": "2"}
    reads = []
    read = Store.read_with_generation
    monkeypatch.setattr(
        Store, "read_with_generation", lambda self, name, **k: reads.append(name) or read(self, name, **k)
    )
    assert texts(storage.localise(URL)) == {"a": "1", "sub/b": "2"}
    assert reads == [".osteojax/listing.json"]


@pytest.mark.parametrize("fails_at", [1, 2, 3])
def test_a_publication_that_is_cut_off_leaves_the_earlier_one(bucket, tmp_path, monkeypatch, fails_at):
    local = written(tmp_path / "local", a="1", b="2")
    storage.publish(local, Store(URL))
    written(local, a="11", b="22")
    write, calls = Store.write, []

    def cut(self, *args, **kwargs):
        calls.append(args)
        if len(calls) == fails_at:
            raise KeyboardInterrupt
        return write(self, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Store, "write", cut)
        storage.publish(local, Store(URL))
    assert texts(storage.localise(URL)) == {"a": "1", "b": "2"}
    storage.publish(local, Store(URL))
    assert texts(storage.localise(URL)) == {"a": "11", "b": "22"}


def test_damage_on_either_side_is_noticed(bucket, tmp_path):
    storage.publish(written(tmp_path / "local", a="1"), Store(URL))
    copy = storage.localise(URL)
    (copy / "a").write_text("2")
    assert texts(storage.localise(URL)) == {"a": "1"}
    (copy / "a").unlink()
    (bucket / "some/run/a").write_text("2")
    with pytest.raises(UserError, match="a is not what was published"):
        storage.localise(URL)


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "a//x", "./x", "a\\x", "a\nx", "", ".."])
def test_no_name_leads_out_of_its_folder(bucket, name, tmp_path):
    listing = Listing("t", {name: File("a", 1, "0" * 64)})
    Store(URL).write(".osteojax/listing.json", json.dumps(dataclasses.asdict(listing)).encode())
    with pytest.raises(UserError, match="does not stay inside"):
        storage.localise(URL)


@pytest.mark.parametrize("url", ["gs://", "gs:///x", "s3://B", "gs://bones/../x", "s3://bones/a//b", "gs://bo nes/x"])
def test_an_address_that_is_none_is_said_so(bucket, url):
    with pytest.raises(UserError, match="names no bucket|does not stay inside"):
        Store(url)


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b'{"token": 1, "files": {"a": {"object": "a"}}}'])
def test_a_damaged_listing_is_said_so(bucket, text):
    Store(URL).write(".osteojax/listing.json", text)
    with pytest.raises(UserError, match="is damaged"):
        storage.localise(URL)


def test_a_folder_of_others_is_copied_and_what_is_new_is_read(bucket):
    theirs = written(bucket / "some/run", healthy__1="1", sick__2="2")
    assert texts(storage.localise(URL)) == {"healthy/1": "1", "sick/2": "2"}
    (theirs / "sick/2").write_text("changed")
    (theirs / "healthy/1").unlink()
    assert texts(storage.localise(URL)) == {"sick/2": "changed"}
    with pytest.raises(UserError, match="holds nothing"):
        storage.localise("gs://bones/nowhere")


def test_two_runs_do_not_share_a_folder(bucket, monkeypatch):
    monkeypatch.setattr(storage, "_LEASE", 1.0)
    monkeypatch.setattr(storage, "_HEARTBEAT", 0.1)
    with storage.leased(Store(URL)), pytest.raises(UserError, match="another run is working"):
        with storage.leased(Store(URL)):
            pass
    with storage.leased(Store(URL)):  # it was given back
        pass


@pytest.mark.parametrize("holder", [{"pid": 2**22 + 1, "host": None}, {"pid": 1, "host": "elsewhere"}])
def test_the_lease_of_a_dead_run_is_taken_over(bucket, monkeypatch, holder):
    monkeypatch.setattr(storage, "_LEASE", 0.5)
    host = holder["host"] or storage.socket.gethostname()
    Store(URL).write(".osteojax/lock.json", json.dumps({**holder, "host": host, "token": "x"}).encode())
    with storage.leased(Store(URL)) as allowed:
        allowed()
        Store(URL).write(".osteojax/lock.json", json.dumps({**holder, "token": "y"}).encode())
        with pytest.raises(storage.LostLease):
            allowed()


def test_a_result_is_whole_or_absent(bucket):
    with pytest.raises(ZeroDivisionError), storage.output(URL, overwrite=False) as out:
        written(out, a="half")
        raise ZeroDivisionError
    with pytest.raises(UserError):
        storage.workdir(URL, create=False).__enter__()
    with storage.output(URL, overwrite=False) as out:
        assert not out.exists()
        written(out, a="whole")
    assert texts(storage.localise(URL)) == {"a": "whole"}
    with pytest.raises(UserError, match="is finished"), storage.output(URL, overwrite=False):
        pass


def test_nothing_is_written_among_the_objects_of_others(bucket):
    written(bucket / "some/run", thesis="x")
    with pytest.raises(UserError, match="not written by this program"), storage.output(URL, overwrite=True):
        pass


def test_a_workdir_follows_its_checkpoints_and_a_lost_copy_is_brought_again(bucket, tmp_path, monkeypatch):
    with storage.workdir(URL) as folder:
        written(folder, checkpoints__1__x="1", metrics="1", lock="me")
        deadline = time.monotonic() + 10
        while not (bucket / "some/run/.osteojax/listing.json").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert (bucket / "some/run/checkpoints/1/x").read_text() == "1"
        written(folder, checkpoints__2__x="2", metrics="2")
    monkeypatch.setenv("OSTEOJAX_CACHE", str(tmp_path / "another host"))
    with storage.workdir(URL) as folder:
        assert texts(folder) == {"checkpoints/1/x": "1", "checkpoints/2/x": "2", "metrics": "2"}


def test_what_an_outage_kept_back_goes_out_with_the_next_run(bucket, monkeypatch):
    with storage.workdir(URL) as folder:
        written(folder, metrics="1")
    with monkeypatch.context() as patch, pytest.raises(UserError, match="away"), storage.workdir(URL) as folder:
        written(folder, metrics="12")
        patch.setattr(storage, "publish", lambda *_, **__: (_ for _ in ()).throw(UserError("away")))
    with storage.workdir(URL) as folder:
        assert texts(folder) == {"metrics": "12"}
    assert texts(storage.localise(URL)) == {"metrics": "12"}


@pytest.mark.parametrize(
    "told, sentence",
    [
        ("NOT_FOUND: NoSuchBucket", "no such bucket"),
        ("UNAUTHENTICATED: 401", "no credentials"),
        ("PERMISSION_DENIED: AccessDenied", "access is denied"),
        ("UNAVAILABLE: 503", "could not be read"),
    ],
)
def test_what_a_server_refuses_is_one_sentence(bucket, told, sentence):
    store = Store(URL)

    class Refusing:
        def read(self, *_, **__):
            raise ValueError(told)

    store._kv = Refusing()
    with pytest.raises(UserError, match=sentence):
        store.read("x")
