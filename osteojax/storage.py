"""Folders on object stores, `gs://` and `s3://`: read through a local copy, published whole or not at all.

An object store has no rename. What makes a folder there is one object, its listing: name -> object, size and SHA-256
of every file. Objects are written first and the listing last, in one put; what no listing names does not exist. A file
that changed is written as a new object, so that the earlier listing stays true until the moment it is replaced.

The store is TensorStore's own driver of each, which Orbax brings along: no further package, the vendor's usual
credentials, and puts that are conditional.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import tensorstore as ts

from osteojax.errors import UserError
from osteojax.files import cache_dir, write_atomically

log = logging.getLogger(__name__)
T = TypeVar("T")

EARLIER = "stage1"
"""Within a run's folder that of the stage before it (`osteojax.train.stages`)."""
_LISTING, _LOCK, _BEGUN = ".osteojax/listing.json", ".osteojax/lock.json", ".osteojax/begun.json"
_URL = re.compile(r"(gs|s3)://([a-z0-9][a-z0-9._-]{1,221}[a-z0-9])(?:/(.*))?", re.DOTALL)
_LEASE, _HEARTBEAT = 60.0, 15.0
_REQUEST_SECONDS = 60.0
# What is written while it works and means nothing afterwards.
_PASSING_FILE = re.compile(r"(^|/)(lock|\.shared-[^/]*|[^/]*\.tmp|[^/]*\.orbax-checkpoint-tmp[^/]*)(/|$)")


def is_remote(place: object) -> bool:
    """Whether it names an object store."""
    return bool(re.match(r"(gs|s3)://", str(place)))


def patience() -> float:
    """Seconds for which a failing request is tried again: `OSTEOJAX_STORAGE_SECONDS`, or 120."""
    return float(os.environ.get("OSTEOJAX_STORAGE_SECONDS") or 120)


class LostLease(UserError):
    """Another run has taken the folder over."""


@dataclasses.dataclass(frozen=True)
class File:
    """One file of a listing: the object that holds it, its size in bytes and its SHA-256 in hex."""

    object: str
    size: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Listing:
    """What a folder holds. `token` is drawn anew at each publication."""

    token: str
    files: Mapping[str, File]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())


class Store:
    """The objects below one address; every request is repeated, with a limit.

    Args:
        url: `gs://BUCKET/FOLDER` or `s3://BUCKET/FOLDER`.

    Raises:
        UserError: it is no such address.
    """

    def __init__(self, url: str) -> None:
        match = _URL.fullmatch(url)
        if match is None:
            raise UserError(f"{url!r} names no bucket; write gs://BUCKET/FOLDER or s3://BUCKET/FOLDER")
        scheme, bucket, key = match[1], match[2], (match[3] or "").rstrip("/")
        if key:
            check_name(key, url)
        self.url, self.key = f"{scheme}://{bucket}/{key}".rstrip("/"), key
        # TensorStore repeats a request too; one that fails there has failed a few times already.
        limits = {"max_retries": 4, "initial_delay": "200ms", "max_delay": "2s"}
        context = ts.Context({"gcs_request_retries": limits, "s3_request_retries": limits})
        self._kv = self._retried("opened", lambda: ts.KvStore.open(_spec(scheme, bucket), context=context))

    def read(self, name: str) -> bytes | None:
        """The object's content; None where there is none."""
        return self.read_with_generation(name)[0]

    def read_with_generation(self, name: str, *, unless: bytes | None = None) -> tuple[bytes | None, bytes]:
        """Likewise, and its generation, which a conditional put names; no content where that is `unless`."""
        found = self._retried(
            f"read ({name})", lambda: self._kv.read(self._key(name), if_not_equal=_known(unless))
        )
        return (found.value if found.state == "value" else None), found.stamp.generation

    def write(self, name: str, content: bytes | None, *, if_equal: bytes | None = None) -> bool:
        """Puts an object, whole or not at all, or deletes it (None); False where `if_equal` is not what is there."""
        stamp = self._retried(
            f"written ({name})", lambda: self._kv.write(self._key(name), content, if_equal=_known(if_equal))
        )
        return bool(stamp.generation)

    def names(self) -> list[str]:
        """Names of all objects below the address, without ours."""
        prefix = f"{self.key}/" if self.key else ""
        within = ts.KvStore.KeyRange(prefix, prefix[:-1] + "0") if prefix else None  # "0" follows "/"
        keys = self._retried("listed", lambda: self._kv.list(within))
        texts = [key.decode("utf-8", "backslashreplace") for key in keys]
        names = [text[len(prefix) :] for text in texts if text.startswith(prefix)]  # an emulator may list all
        # A console makes empty objects that end in "/" to show a folder.
        return sorted(n for n in names if n and not n.endswith("/") and not n.startswith(".osteojax/"))

    def _key(self, name: str) -> str:
        return "/".join(part for part in (self.key, name) if part)

    def _retried(self, doing: str, request: Callable[[], Any]) -> Any:
        deadline, pause = time.monotonic() + patience(), 0.5
        while True:
            try:
                return request().result(timeout=_REQUEST_SECONDS)
            except (
                Exception
            ) as error:  # TensorStore raises ValueError for everything, with the status in its words
                told = str(error) or "no answer in time"
                if sentence := _lasting(told):
                    raise UserError(f"{self.url}: {sentence}") from error
                if time.monotonic() + pause > deadline:
                    raise UserError(
                        f"{self.url} could not be {doing} within {patience():.0f} seconds ({_first_line(told)}); what "
                        "is finished is kept: see to the network and start the same command again"
                    ) from error
                log.warning("%s could not be %s (%s); trying again", self.url, doing, _first_line(told))
                time.sleep(pause)
                pause = min(2 * pause, 10.0)


def _spec(scheme: str, bucket: str) -> dict[str, Any]:
    """What TensorStore calls the bucket."""
    if scheme == "gs":
        return {"driver": "gcs", "bucket": bucket}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if not endpoint:
        return {"driver": "s3", "bucket": bucket}
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    return {"driver": "s3", "bucket": bucket, "endpoint": endpoint, "aws_region": region}


def _known(generation: bytes | None) -> bytes | None:
    """A generation to compare with; None where the server told none, as emulators do."""
    return generation if generation and generation.strip(b"\0") else None


def _lasting(told: str) -> str | None:
    """What the user has to mend, where trying again is of no use."""
    if any(words in told for words in ("NoSuchBucket", "NOT_FOUND", "404")):
        return "there is no such bucket; make it first, or check the name"
    if any(words in told for words in ("UNAUTHENTICATED", "401", "credentials", "Credentials")):
        return (
            "no credentials that it accepts; log in (gcloud auth application-default login, aws configure) or set "
            "GOOGLE_APPLICATION_CREDENTIALS, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if any(words in told for words in ("PERMISSION_DENIED", "AccessDenied", "403")):
        return "access is denied; ask for the right to list, read, write and delete objects there, or give another"
    return None


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0][:160]


def check_name(name: str, where: str) -> None:
    """Raises UserError unless a name stays below a folder that it is joined to."""
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in name or any(ord(c) < 32 for c in name):
        raise UserError(f"{where}: the name {name!r} does not stay inside its folder; rename it")


def read_listing(store: Store) -> Listing | None:
    """The listing of what is published there; None where nothing is.

    Raises:
        UserError: it is damaged, or a name in it leads out of the folder.
    """
    return _parse(store.read(_LISTING), store.url)


def _parse(text: bytes | None, where: str) -> Listing | None:
    if text is None:
        return None
    try:
        read = json.loads(text)
        files = {str(name): File(**file) for name, file in read["files"].items()}
        listing = Listing(str(read["token"]), files)
        sound = all(re.fullmatch("[0-9a-f]{64}", f.sha256) and f.size >= 0 for f in files.values())
    except (ValueError, TypeError, KeyError, AttributeError):
        sound = False
    if not sound:
        raise UserError(f"{where}/{_LISTING} is damaged; publish the folder again")
    for name, file in files.items():
        check_name(name, where)
        check_name(file.object, where)
    return listing


def publish(
    folder: Path, store: Store, *, names: list[str] | None = None, allowed: Callable[[], None] = lambda: None
) -> Listing:
    """Makes the folder on the store what the local one is, in one step; only what changed is sent.

    Args:
        folder: local.
        store: where to.
        names: the files, in the order in which they are read; by default all.
        allowed: called before the step; raises where it must not be made.

    Raises:
        UserError: the store does not take it; the earlier publication stays.
    """
    before = read_listing(store) or Listing("", {})
    files = {}
    for name in local_names(folder) if names is None else names:
        check_name(name, str(folder))
        content = (folder / name).read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        earlier = before.files.get(name)
        if earlier is None or earlier.sha256 != sha256:
            target = name if earlier is None else f"{name}@{sha256[:12]}"
            store.write(target, content)
            earlier = File(target, len(content), sha256)
        files[name] = earlier
    listing = Listing(secrets.token_hex(8), files)
    allowed()
    store.write(_LISTING, _text(listing).encode())
    kept = {file.object for file in files.values()}
    for file in before.files.values():
        if file.object not in kept:
            store.write(file.object, None)
    return listing


def _text(listing: Listing) -> str:
    return json.dumps(dataclasses.asdict(listing), indent=1, sort_keys=True) + "\n"


def local_names(folder: Path) -> list[str]:
    """Names of the files of a folder that count, relative to it, in order."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if not _PASSING_FILE.search(name))


def bring(folder: Path, store: Store, listing: Listing) -> None:
    """Makes a local folder what the listing says: missing and different files are read and verified, others removed.

    Raises:
        UserError: the store does not hold what its listing says.
    """
    for name in set(local_names(folder)) - listing.files.keys() if folder.is_dir() else ():
        (folder / name).unlink()
    for name, file in listing.files.items():
        path = folder / name
        if path.is_file() and path.stat().st_size == file.size and _sha256(path.read_bytes()) == file.sha256:
            continue
        content = store.read(file.object)
        if content is None or len(content) != file.size or _sha256(content) != file.sha256:
            raise UserError(f"{store.url}: {name} is not what was published; publish the folder again")
        _write_bytes(path, content)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write_bytes(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


def localise(place: str | Path) -> Path:
    """The place itself where it is local; else this host's verified copy, reused while the store holds the same.

    Args:
        place: a folder or one file.

    Raises:
        UserError: there is nothing, or it cannot be read.
    """
    if not is_remote(place):
        return Path(place)
    store = Store(str(place))
    with _once_a_host(store.url) as here:
        listing = read_listing(store)
        if listing is not None:
            folder = here / "published"
            if not _complete(folder, listing):
                log.info("copying %s (%s) to %s", store.url, megabytes(listing.size), folder)
                bring(folder, store, listing)
            return folder
        if store.read(_BEGUN) is not None:
            raise UserError(
                f"{store.url} holds nothing whole: its publication was cut off; start that command again"
            )
        return _bring_unlisted(store, here)


def _complete(folder: Path, listing: Listing) -> bool:
    return all(
        (folder / name).is_file() and _sha256((folder / name).read_bytes()) == file.sha256
        for name, file in listing.files.items()
    ) and set(local_names(folder)) == set(listing.files)


def _bring_unlisted(store: Store, here: Path) -> Path:
    """A folder or file that others put there: its generations tell whether the copy is still good."""
    names = store.names()
    single = not names
    if single and not store.key:
        raise UserError(f"{store.url} holds nothing; check the name")
    folder, notes = here / "copied", here / "copied.json"
    known: dict[str, Any] = json.loads(notes.read_text()) if notes.is_file() else {}
    log.info(
        "copying what is new of %s (%s) to %s",
        store.url,
        f"{len(names)} objects" if names else "1 object",
        folder,
    )
    wanted = [""] if single else names
    notes_now = {}
    for name in wanted:
        local = store.key.rsplit("/", 1)[-1] if single else name
        check_name(local, store.url)
        earlier = known.get(local) if (folder / local).is_file() else None
        if earlier and _sha256((folder / local).read_bytes()) != earlier["sha256"]:
            earlier = None
        content, generation = store.read_with_generation(
            name, unless=bytes.fromhex(earlier["generation"]) if earlier else None
        )
        if content is not None:
            _write_bytes(folder / local, content)
            earlier = {"generation": generation.hex(), "sha256": _sha256(content)}
        elif earlier is None or generation != bytes.fromhex(earlier["generation"]):
            raise UserError(f"{store.url} holds nothing; check the name")
        notes_now[local] = earlier
    for name in set(local_names(folder)) - notes_now.keys():
        (folder / name).unlink()
    write_atomically(notes, json.dumps(notes_now))
    return folder / store.key.rsplit("/", 1)[-1] if single else folder


@contextlib.contextmanager
def _once_a_host(url: str) -> Iterator[Path]:
    """This host's folder for an address, while no other process of it works there."""
    here = local_folder(url)
    with (here / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield here


def local_folder(url: str) -> Path:
    """This host's folder for an address."""
    here = cache_dir() / "storage" / hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:16]
    try:
        here.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to the cache {here} ({error.strerror}); set OSTEOJAX_CACHE") from error
    return here


def megabytes(size: int) -> str:
    """A size for people."""
    return f"{size / 1e6:.1f} MB"


@contextlib.contextmanager
def leased(store: Store) -> Iterator[Callable[[], None]]:
    """Keeps a folder on a store for this process; gives a check that it still does.

    The lock is an object put on condition, renewed every few seconds. One that is not renewed for a minute is that of a
    dead process; one of a process of this host that is gone is taken over at once. No two clocks are compared.

    Raises:
        UserError: another run holds it.
    """
    me: dict[str, Any] = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "token": secrets.token_hex(8),
        "beat": 0,
    }
    _take(store, me)
    stop = threading.Event()
    taken = threading.Event()

    def renew() -> None:
        while not stop.wait(_HEARTBEAT):
            with contextlib.suppress(UserError):  # an outage; the check before a publication asks again
                if _held(store).get("token") != me["token"]:
                    taken.set()
                    return
                me["beat"] += 1
                store.write(_LOCK, json.dumps(me).encode())

    def check() -> None:
        held = _held(store)
        if taken.is_set() or held.get("token") != me["token"]:
            raise LostLease(
                f"another run has taken {store.url} over ({_holder(held)}); this one publishes nothing more"
            )

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield check
    finally:
        stop.set()
        thread.join(timeout=5)
        with contextlib.suppress(UserError, ValueError):
            if _held(store).get("token") == me["token"]:
                store.write(_LOCK, None)


def _held(store: Store) -> dict[str, Any]:
    """What the lock says of its holder; empty where there is none."""
    return _read_lock(store.read(_LOCK), store)


def _read_lock(text: bytes | None, store: Store) -> dict[str, Any]:
    try:
        found = json.loads(text or b"{}")
        int(found.get("pid", 0))
    except (ValueError, TypeError, AttributeError):
        raise UserError(
            f"{store.url}/{_LOCK} is not a lock of osteojax: see that no run works there, and remove it"
        ) from None
    return dict(found)


def _take(store: Store, me: Mapping[str, Any]) -> None:
    text, generation = store.read_with_generation(_LOCK)
    if text is not None:
        held = _read_lock(text, store)
        if held.get("host") != me["host"] or _alive(int(held.get("pid", 0))):
            log.info(
                "%s is held by %s; waiting %.0f seconds for a sign of life", store.url, _holder(held), _LEASE
            )
            deadline = time.monotonic() + _LEASE
            while text is not None and time.monotonic() < deadline:
                time.sleep(min(2.0, _LEASE / 4))
                now, generation = store.read_with_generation(_LOCK)
                if now is not None and now != text:
                    held = _read_lock(now, store)
                    raise UserError(
                        f"another run is working in {store.url} ({_holder(held)}); wait for it, stop it, or use "
                        "another folder"
                    )
                text = now
    store.write(_LOCK, json.dumps(me).encode(), if_equal=generation)
    if _held(store).get("token") != me["token"]:
        raise UserError(
            f"another run has just begun to work in {store.url}; wait for it, or use another folder"
        )


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def _holder(held: Mapping[str, Any]) -> str:
    return f"process {held.get('pid')} on {held.get('host')}"


@contextlib.contextmanager
def mirrored(url: str, *, send_first: bool = False) -> Iterator[Path]:
    """A local workdir that is the one at `url`, published whenever a checkpoint is committed, and at the end.

    A killed run loses what came after its last published checkpoint, as it would on disk. Where the store was away, the
    local folder is ahead of it and the next run on this host goes on from there.

    Args:
        url: of the run.
        send_first: whether such a folder is published at once, for those who `follow`.

    Raises:
        UserError: the folder is held by another run, or its last state could not be published.
    """
    store = Store(url)
    folder, base = local_folder(store.url) / "workdir", local_folder(store.url) / "workdir.base"
    with leased(store) as allowed:
        listing, ahead = read_listing(store), True
        if listing is None:
            if base.exists():  # what was published is gone: so is the copy
                shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(exist_ok=True)
            store.write(_BEGUN, b"{}")
        elif not (base.is_file() and base.read_text() == listing.token):
            log.info("copying %s (%s) to %s", store.url, megabytes(listing.size), folder)
            bring(folder, store, listing)
            _remove_empty(folder)
            write_atomically(base, listing.token)
            ahead = False
        stop, seen = threading.Event(), committed_steps(folder)

        def send() -> None:
            sent = publish(folder, store, names=snapshot(folder), allowed=allowed)
            write_atomically(base, sent.token)

        def watch() -> None:
            nonlocal seen
            while not stop.wait(0.5):
                now = committed_steps(folder)
                if now != seen:
                    try:
                        send()
                        seen = now
                    except FileNotFoundError:  # an old checkpoint went while it was read
                        continue
                    except UserError as error:
                        log.warning("%s; training goes on, and the next checkpoint tries again", error)
                        seen = now

        if send_first and ahead and any(folder.iterdir()):
            send()
        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield folder
        finally:
            stop.set()
            thread.join()
            if any(folder.iterdir()):
                send()


def published_token(url: str) -> str:
    """Which publication is at `url`; empty where there is none."""
    listing = read_listing(Store(url))
    return listing.token if listing else ""


def follow(url: str, token: str, process: int) -> Path:
    """A copy of its own, for a process that is not the first, of the state of a run that the first one told.

    Raises:
        UserError: it cannot be read, or is not that any more.
    """
    store = Store(url)
    folder = local_folder(store.url) / f"workdir-process{process}"
    listing = read_listing(store) or Listing("", {})
    if listing.token != token:
        raise UserError(f"{store.url} changed while the run started; start it again")
    bring(folder, store, listing)
    folder.mkdir(exist_ok=True)
    _remove_empty(folder)
    return folder


def newest_step(url: str) -> int | None:
    """The newest checkpoint of the run that was published at `url`; None where there is none yet."""
    listing = read_listing(Store(url))
    names = [name.split("/") for name in listing.files] if listing else []
    return max(
        (int(n[1]) for n in names if len(n) > 2 and n[0] == "checkpoints" and n[1].isdecimal()), default=None
    )


def committed_steps(workdir: Path) -> list[str]:
    """Names of the checkpoints that Orbax has renamed into place; an earlier stage's behind its folder's name."""
    folder, earlier = workdir / "checkpoints", workdir / EARLIER
    here = sorted(path.name for path in folder.iterdir() if path.name.isdigit()) if folder.is_dir() else []
    return here + ([f"{EARLIER}/{step}" for step in committed_steps(earlier)] if earlier.is_dir() else [])


def snapshot(workdir: Path) -> list[str]:
    """Files to publish: the checkpoints as they are now, then the logs, which may be ahead of them but never behind."""
    names = local_names(workdir)
    return sorted(names, key=lambda name: "checkpoints" not in name.split("/"))


def _remove_empty(folder: Path) -> None:
    """An empty folder would look like a checkpoint to Orbax."""
    for path in sorted((p for p in folder.rglob("*") if p.is_dir()), reverse=True):
        if not any(path.iterdir()):
            path.rmdir()


@contextlib.contextmanager
def workdir(place: str | Path, *, create: bool = True) -> Iterator[Path]:
    """The folder of a run: itself where it is local, else `mirrored`.

    Raises:
        UserError: as `mirrored`; there is none on the store, where it is not to be created.
    """
    if not is_remote(place):
        yield Path(place)
        return
    if not create and read_listing(Store(str(place))) is None:
        raise UserError(f"{place} holds no run; give the --workdir of a training run")
    with mirrored(str(place)) as folder:
        yield folder


@contextlib.contextmanager
def output(place: str | Path | None, *, overwrite: bool) -> Iterator[Any]:
    """Where to write a result: the place itself where it is local (or None), else a path that is published at the end.

    Work that was cut off stays on this host for the next run.

    Raises:
        UserError: something is there already, or the store does not take the result.
    """
    if place is None or not is_remote(place):
        yield place
        return
    store = Store(str(place))
    out = local_folder(store.url) / "out" / (store.url.rsplit("/", 1)[-1])
    with leased(store) as allowed:
        if read_listing(store) is None:
            if store.names():
                _check_ours(store)
        elif not overwrite:
            raise UserError(
                f"{store.url} is finished; give another --out, or --config.overwrite=True to replace it"
            )
        _remove(out)  # one that could not be published; the work that was cut off lies beside it
        out.parent.mkdir(exist_ok=True)
        store.write(_BEGUN, b"{}")
        yield out
        if out.is_file():  # one put is atomic
            allowed()
            store.write("", out.read_bytes())
            store.write(_BEGUN, None)
        else:
            sent = publish(out, store, allowed=allowed)
            log.info("published %s (%s)", store.url, megabytes(sent.size))
        _remove(out)


def _check_ours(store: Store) -> None:
    if store.read(_BEGUN) is None:
        raise UserError(
            f"{store.url} holds objects that were not written by this program; give another --out"
        )


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def localise_source(source: str) -> str | Path:
    """`localise` for a `--source`, which may be a word."""
    return localise(source) if is_remote(source) else source


def folder_address(source: str) -> str | None:
    """The address that the files of a `--source` are named below, where their objects bear their names; else None.

    A folder that we published is none of these: an object of it may be called otherwise.
    """
    if not is_remote(source):
        return None
    store = Store(source)
    if read_listing(store) is not None:
        return None
    return source.rstrip("/") if store.names() else source.rstrip("/").rpartition("/")[0]
