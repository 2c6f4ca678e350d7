"""The folder of a run: who may work in it, and which config it was started with."""

import contextlib
import fcntl
import logging
import os
import secrets
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import jax

from osteojax import storage
from osteojax.devices.agreement import any_process, from_first, shared_errors
from osteojax.errors import UserError
from osteojax.files import disk_errors, write_atomically

log = logging.getLogger(__name__)

CONFIG = "config.json"
_TOKEN = ".shared"
_SECONDS_TO_APPEAR = 30


@contextlib.contextmanager
def opened(place: str | Path) -> Iterator[Path]:
    """The folder of a run as this process sees it: itself where it is local, else `storage.mirrored`.

    Of a run with several processes the first works in the folder that is published. Each of the others, on whatever
    host, has a copy of its own of the state that the first starts from.

    Raises:
        UserError: what one of them meets, in all of them.
    """
    if not storage.is_remote(place):
        yield Path(place)
        return
    first, token = jax.process_index() == 0, ""
    with contextlib.ExitStack() as stack:
        with shared_errors():
            if first:
                folder = stack.enter_context(storage.mirrored(str(place), send_first=jax.process_count() > 1))
                token = storage.published_token(str(place))
        token = from_first(token)
        with shared_errors():
            if not first:
                folder = storage.follow(str(place), token, jax.process_index())
        yield folder


@contextlib.contextmanager
def hold(workdir: Path, *, shared: bool = True) -> Iterator[None]:
    """Keeps the folder for this run.

    Args:
        workdir: of this process.
        shared: whether it is one folder, which all processes of the run must see.

    Raises:
        UserError: it cannot be written, another run holds it, or a process does not see what the first one writes.
    """
    with contextlib.ExitStack() as stack:
        with shared_errors():
            if not shared or jax.process_index() == 0:
                stack.enter_context(_locked(workdir))
        if shared:
            _check_shared(workdir)
        yield


@contextlib.contextmanager
def _locked(workdir: Path) -> Iterator[None]:
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"{workdir} is a file; give a folder as --workdir")
    with disk_errors(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        # Opened without emptying it: what the holder wrote is what the message shows.
        descriptor = os.open(workdir / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    with os.fdopen(descriptor, "r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = lock.read().strip() or "an unknown process"
            raise UserError(
                f"another run is working in {workdir} ({holder}); wait for it, stop it, or use another --workdir"
            ) from None
        except OSError as error:  # a file system without locks
            log.warning("%s cannot be locked (%s); start no second run in it", workdir, error.strerror)
        with disk_errors(workdir):
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            lock.flush()
        yield


def _check_shared(workdir: Path) -> None:
    with _token(workdir, _SECONDS_TO_APPEAR) as seen, shared_errors():
        if not seen:
            raise UserError(
                f"{workdir} on {socket.gethostname()} is not the folder that process 0 writes to; "
                "give all processes one --workdir on a file system that they share"
            )


def seen_by_all(folder: Path) -> bool:
    """Whether all processes see in it what the first one writes.

    Raises:
        UserError: it cannot be written.
    """
    with _token(folder, _SECONDS_TO_APPEAR / 3) as seen:
        return not any_process(not seen)


@contextlib.contextmanager
def _token(folder: Path, seconds: float) -> Iterator[bool]:
    """Whether a file that process 0 writes now is seen here within some seconds."""
    if jax.process_count() == 1:
        yield True
        return
    path = folder / f"{_TOKEN}-{from_first(secrets.token_hex(8))}"
    with shared_errors(), disk_errors(folder):
        if jax.process_index() == 0:
            path.touch()
    deadline = time.monotonic() + seconds  # network file systems take their time
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    try:
        yield path.exists()
    finally:
        if jax.process_index() == 0:
            path.unlink(missing_ok=True)


def stored_config(workdir: Path) -> str | None:
    """The text of config.json; None where there is none."""
    path = workdir / CONFIG
    return path.read_text(errors="replace") if path.exists() else None


def write_config(workdir: Path, text: str) -> None:
    """Writes config.json; only the first process does."""
    if jax.process_index() == 0 and stored_config(workdir) != text:
        write_atomically(workdir / CONFIG, text)
