"""Object stores: first on a folder that plays one, then on real servers over loopback."""

import contextlib
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
from osteojax.run.open import open_run
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


@pytest.mark.parametrize(
    "url", ["gs://", "gs:///x", "s3://B", "gs://bones/../x", "s3://bones/a//b", "gs://bo nes/x"]
)
def test_an_address_that_is_none_is_said_so(bucket, url):
    with pytest.raises(UserError, match=r"names no bucket|does not stay inside"):
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
        storage.leased(Store(URL)).__enter__()
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


@pytest.mark.parametrize("text", [b"{", b"[]", b"3", b'{"pid": "x"}', b'{"pid": null}', b"\xff"])
def test_a_lock_that_is_none_is_one_sentence(bucket, monkeypatch, text):
    monkeypatch.setattr(storage, "_LEASE", 0.2)
    Store(URL).write(".osteojax/lock.json", text)
    with pytest.raises(UserError, match=r"lock\.json is not a lock of osteojax"):
        storage.leased(Store(URL)).__enter__()


def test_the_newest_checkpoint_of_a_published_run(bucket, tmp_path):
    assert storage.newest_step(URL) is None
    with storage.workdir(URL) as folder:
        written(
            folder,
            checkpoints__9__record="1",
            checkpoints__10__record="1",
            other__11__x="1",
            checkpoints__x__y="1",
        )
    assert storage.newest_step(URL) == 10


def test_a_result_is_whole_or_absent(bucket):
    with pytest.raises(ZeroDivisionError), storage.output(URL, overwrite=False) as out:
        written(out, a="half")
        raise ZeroDivisionError
    written(bucket / "some/run", a="half sent")
    with pytest.raises(UserError, match="holds nothing whole"):
        storage.localise(URL)
    with pytest.raises(UserError, match="holds no run"):
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
    with (
        monkeypatch.context() as patch,
        pytest.raises(UserError, match="away"),
        storage.workdir(URL) as folder,
    ):
        written(folder, metrics="12")
        patch.setattr(storage, "publish", lambda *_, **__: (_ for _ in ()).throw(UserError("away")))
    with storage.workdir(URL) as folder:
        assert texts(folder) == {"metrics": "12"}
    assert texts(storage.localise(URL)) == {"metrics": "12"}


def test_other_hosts_follow_what_the_first_one_has_and_nothing_else(bucket, tmp_path, monkeypatch):
    with storage.workdir(URL) as folder:
        written(folder, metrics="1")
    with (
        monkeypatch.context() as patch,
        contextlib.suppress(UserError),
        storage.workdir(URL) as folder,
    ):
        written(folder, metrics="12", checkpoints__4__x="4")
        patch.setattr(storage, "publish", lambda *_, **__: (_ for _ in ()).throw(UserError("away")))
    with storage.mirrored(URL, send_first=True):
        token = storage.published_token(URL)
        with monkeypatch.context() as patch:
            patch.setenv("OSTEOJAX_CACHE", str(tmp_path / "another host"))
            theirs = storage.follow(URL, token, 1)
            assert texts(theirs) == {"checkpoints/4/x": "4", "metrics": "12"}
            written(theirs, checkpoints__5__x="of a run that was never published")
            assert texts(storage.follow(URL, token, 1)) == {"checkpoints/4/x": "4", "metrics": "12"}
            assert storage.committed_steps(theirs) == ["4"]
    with pytest.raises(UserError, match="changed while the run started"):
        storage.follow(URL, token, 1)


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


# Real servers, in processes of their own. Where their pins do not fit beside ours (moto's botocore wants an older
# python-dateutil) they are installed apart, and OSTEOJAX_TEST_SERVERS names that folder (pip install --target FOLDER).
APART = os.environ.get("OSTEOJAX_TEST_SERVERS", "")
SERVERS = {
    "gs": ("gcp_storage_emulator", "from gcp_storage_emulator.server import create_server as c; "
           "c('127.0.0.1', {port}, in_memory=True, default_bucket='bones').run()"),
    "s3": ("moto", "from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"),
}  # fmt: skip


class Faulty(http.server.BaseHTTPRequestHandler):
    """Passes requests on; fails one in ten, and all while the server is `away`."""

    target, count, away = 0, 0, False
    protocol_version = "HTTP/1.1"

    def pass_on(self):
        body = self.body()
        del self.headers["Transfer-Encoding"]  # it goes on in one piece
        type(self).count += 1
        if self.away or self.count % 10 == 0:
            self.answer(503, {}, b"")
            return
        line = http.client.HTTPConnection("127.0.0.1", self.target, timeout=30)
        line.request(self.command, self.path, body, dict(self.headers))
        got = line.getresponse()
        self.answer(got.status, dict(got.getheaders()), got.read())

    def body(self):
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass  # trailers
        return b"".join(parts)

    def answer(self, status, headers, body):
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = pass_on

    def log_message(self, *_):
        pass


@pytest.fixture(params=sorted(SERVERS))
def server(request, tmp_path, monkeypatch):
    """The address of a bucket on a real server behind a faulty line; yields it and the line's handler."""
    module, script = SERVERS[request.param]
    if not (Path(APART, module).is_dir() if APART else find_spec(module)):
        pytest.skip(
            f"no {module}: install it, apart where its pins do not fit, and set OSTEOJAX_TEST_SERVERS"
        )
    port = processes.free_port()
    environment = dict(os.environ, PYTHONPATH=APART)
    log = (tmp_path / "server.log").open("w")
    process = subprocess.Popen(
        [sys.executable, "-c", script.format(port=port)], env=environment, stdout=log, stderr=log
    )
    handler = type("Line", (Faulty,), {"target": port})
    line = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=line.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{line.server_port}"
    for name, value in {
        "TENSORSTORE_GCS_HTTP_URL": address, "AWS_ENDPOINT_URL": address, "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "OSTEOJAX_CACHE": str(tmp_path / "cache"),
        "OSTEOJAX_STORAGE_SECONDS": "20", "GCE_METADATA_HOST": "127.0.0.1:1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            method = "PUT" if request.param == "s3" else "GET"
            path = "/bones" if request.param == "s3" else "/storage/v1/b/bones"
            urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method))
            break
        except OSError:
            time.sleep(0.2)
    yield f"{request.param}://bones", handler
    line.shutdown()
    line.server_close()
    process.kill()
    process.wait()
    log.close()


def osteojax(*words):
    done = subprocess.run(
        [sys.executable, str(small.__file__), *map(str, words)], capture_output=True, text=True,
        cwd=processes.SCRIPT.parents[2], env=dict(os.environ, PYTHONPATH=str(processes.SCRIPT.parents[2])),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
def test_train_kill_resume_and_evaluate_on_a_bucket_as_on_disk(server, prepared, tmp_path, monkeypatch):
    url, _ = server
    with storage.output(f"{url}/data", overwrite=False) as out:
        storage.shutil.copytree(prepared, out)
    config = small.quick_config(prepared)
    config.update(epochs=12.0)
    config.checkpoint.every_steps = 2
    file = small.write_config(tmp_path / "config.py", config)
    data = f"--config.data.dir={url}/data"
    osteojax("train", f"--config={file}", f"--workdir={tmp_path}/disk")
    osteojax("evaluate", f"--workdir={tmp_path}/disk")

    call = processes.command(file, f"{url}/run", data)
    with subprocess.Popen(**call, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as run:
        while run.poll() is None and (storage.read_listing(Store(f"{url}/run")) is None):
            time.sleep(0.1)
        run.send_signal(signal.SIGKILL)
    assert run.returncode == -signal.SIGKILL
    cut_off = storage.read_listing(Store(f"{url}/run"))
    assert any(name.startswith("checkpoints/") for name in cut_off.files)
    monkeypatch.setenv("OSTEOJAX_CACHE", str(tmp_path / "another host"))
    osteojax("train", f"--config={file}", f"--workdir={url}/run", data)
    osteojax("evaluate", f"--workdir={url}/run")
    there, disk = storage.localise(f"{url}/run"), tmp_path / "disk"
    for name in ("metrics.jsonl", "eval/test/predictions.csv"):
        assert (there / name).read_bytes() == (disk / name).read_bytes()


@pytest.fixture
def bucket_of_processes(tmp_path, monkeypatch):
    """A folder that plays the bucket for the processes that `small` starts."""
    folder = tmp_path / "bucket"
    folder.mkdir()
    monkeypatch.setenv("OSTEOJAX_TEST_BUCKET", str(folder))
    monkeypatch.setenv("OSTEOJAX_STORAGE_SECONDS", "5")
    monkeypatch.setenv("OSTEOJAX_TEST_SMALLEST_SPLIT", "8")  # else fsdp splits nothing of so small a network
    monkeypatch.setattr(storage, "_spec", lambda *_: {"driver": "file", "path": f"{folder}/"})
    return folder


def on_two_hosts(file, url, caches, *flags):
    """Two processes of one device each that share no folder but the bucket."""
    port, started = processes.free_port(), []
    for i, cache in enumerate(caches):
        where = (f"--coordinator=127.0.0.1:{port}", "--processes=2", f"--process_id={i}")
        call = processes.command(file, url, *where, *flags, devices=1)
        call["env"]["OSTEOJAX_CACHE"] = str(cache)
        started.append(subprocess.Popen(**call, stderr=subprocess.PIPE, text=True))
    return started


def ended(started):
    return [(process.communicate(timeout=180)[1], process.returncode) for process in started]


def distributed_config(prepared, tmp_path, fsdp, **values):
    config = small.quick_config(prepared)
    config.update(values)
    config.mesh.data, config.mesh.fsdp = -1, fsdp
    config.checkpoint.every_steps = 1
    return small.write_config(tmp_path / "config.py", config)


@pytest.mark.slow
def test_two_hosts_write_one_whole_checkpoint_to_the_bucket(bucket_of_processes, prepared, tmp_path):
    file = distributed_config(prepared, tmp_path, 2, epochs=1.0)
    found = ended(on_two_hosts(file, URL, [tmp_path / "a", tmp_path / "b"]))
    assert [status for _, status in found] == [0, 0], found
    assert storage.newest_step(URL) == 3
    assert not list((tmp_path / "b").rglob("checkpoints/3"))  # it was the first that wrote
    assert open_run(storage.localise(URL)).step == 3  # verifies the CRC of every array


def lose_a_host_and_go_on(url, file, tmp_path):
    disk = processes.launch(file, tmp_path / "disk", 2, 1)
    assert [status for _, status in ended(disk)] == [0, 0]

    first = on_two_hosts(file, url, [tmp_path / "a", tmp_path / "b"])
    while storage.newest_step(url) is None and first[0].poll() is None:
        time.sleep(0.05)
    first[1].kill()
    (told, status), _ = ended(first)
    assert status == 75 and "process 1" in told, told
    assert 0 < storage.newest_step(url) < 6  # cut off, or there is nothing to resume

    # On other hosts, as after a preemption: nothing local is left.
    second = ended(on_two_hosts(file, url, [tmp_path / "c", tmp_path / "d"]))
    assert [status for _, status in second] == [0, 0], second
    assert "resuming at step" in second[0][0]
    there = storage.localise(url)
    assert (there / "metrics.jsonl").read_bytes() == (tmp_path / "disk/metrics.jsonl").read_bytes()
    for where in (there, tmp_path / "disk"):
        osteojax("evaluate", f"--workdir={where}", f"--out={where}-evaluated")
    mine, theirs = (Path(f"{where}-evaluated/predictions.csv") for where in (there, tmp_path / "disk"))
    assert mine.read_bytes() == theirs.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [1, 2])
def test_several_hosts_share_only_the_bucket(fsdp, bucket_of_processes, prepared, tmp_path):
    lose_a_host_and_go_on(URL, distributed_config(prepared, tmp_path, fsdp), tmp_path)


@pytest.mark.slow
def test_several_hosts_share_only_a_bucket_of_a_server(server, prepared, tmp_path):
    lose_a_host_and_go_on(f"{server[0]}/run", distributed_config(prepared, tmp_path, 2), tmp_path)


@pytest.mark.slow
def test_what_the_first_of_several_hosts_meets_is_told_by_all(bucket_of_processes, prepared, tmp_path):
    file = small.write_config(tmp_path / "config.py", small.quick_config(prepared))
    lock = bucket_of_processes / "some/run/.osteojax/lock.json"
    lock.parent.mkdir(parents=True)
    lock.write_text("no lock")
    for told, status in ended(on_two_hosts(file, URL, [tmp_path / "a", tmp_path / "b"])):
        assert status == 2 and "process 0: gs://bones/some/run/.osteojax/lock.json is not a lock" in told


@pytest.mark.slow
def test_a_preparation_on_a_bucket_is_that_on_disk(server, tmp_path):
    url, _ = server
    phantom = (
        "--config=configs/prep/prep_demo.py",
        "--config.phantom.n_patients=24",
        "--config.phantom.image_size=(96, 96)",
        "--config.image_size=32",
    )
    osteojax("prep", "--source=phantom", f"--out={tmp_path}/disk", *phantom)
    with storage.output(f"{url}/raw", overwrite=False) as out:
        storage.shutil.copytree(tmp_path / "disk" / "phantom", out)
    osteojax("prep", f"--source={tmp_path}/disk/phantom", f"--out={tmp_path}/again", *phantom)
    osteojax("prep", f"--source={url}/raw", f"--out={url}/data", *phantom)
    there, again = storage.localise(f"{url}/data"), tmp_path / "again"
    shards = sorted(path.name for path in again.glob("*.array_record*"))
    assert shards
    for name in (*shards, "manifest.csv"):
        assert (there / name).read_bytes() == (again / name).read_bytes()


@pytest.mark.slow
def test_a_server_that_vanishes_is_waited_for_and_then_named(server, tmp_path, monkeypatch):
    url, line = server
    with storage.workdir(f"{url}/run") as folder:
        written(folder, metrics="1")
    line.away = True
    threading.Timer(4, lambda: setattr(line, "away", False)).start()
    assert storage.read_listing(Store(f"{url}/run")) is not None
    line.away = False
    monkeypatch.setenv("OSTEOJAX_STORAGE_SECONDS", "3")
    with pytest.raises(UserError, match="within 3 seconds"), storage.workdir(f"{url}/run") as folder:
        written(folder, metrics="12")
        line.away = True
    line.away = False
    with storage.workdir(f"{url}/run") as folder:
        assert texts(folder) == {"metrics": "12"}
    single = Store(f"{url}/weights.bin")
    single.write("", b"w")
    assert storage.localise(f"{url}/weights.bin").read_bytes() == b"w"
