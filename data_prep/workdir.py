"""Where a preparation works and how its result appears: whole, or not at all.

Work is done in `<out>.partial`, which a killed run leaves for the next one, and is renamed into place. Where `out` is a
mount point nothing can be renamed onto it: then the folder is inside it, and what tells a dataset moves last.
"""

import contextlib
import dataclasses
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from osteojax.errors import UserError
from osteojax.files import disk_errors

INSIDE = ".partial"
# By these a finished folder is told; each is written, moved and replaced last.
_TELLING = ("audit.json", "dataset_info.json")
_NOT_CONTENT = {"lost+found", INSIDE}
_LEFTOVERS = ("beam", "dataset", "dataset.tfds", "replaced")


@dataclasses.dataclass(frozen=True)
class Workdir:
    """The folder in which one run at a time works.

    Attributes:
        out: where the result will be.
        folder: where the work is.
        secret: keys what must not be recognised by those who read the cache or the result.
    """

    out: Path
    folder: Path
    secret: bytes

    @property
    def cache(self) -> Path:
        """Finished images."""
        return self.folder / "cache"

    @property
    def result(self) -> Path:
        """What becomes `out`."""
        return self.folder / "dataset"

    def publish(self) -> None:
        """Makes the result appear at `out`, in place of what was there."""
        if self.folder.parent == self.out:
            self._move_in()
            return
        if self.out.exists():
            self.out.rename(self.folder / "replaced")
        self.result.rename(self.out)

    def _move_in(self) -> None:
        replaced = self.folder / "replaced"
        replaced.mkdir()
        for entry in _by_telling(self.out, last=False):
            entry.rename(replaced / entry.name)
        for entry in _by_telling(self.result, last=True):
            entry.rename(self.out / entry.name)


def _by_telling(folder: Path, *, last: bool) -> list[Path]:
    content = [entry for entry in sorted(folder.iterdir()) if entry.name not in _NOT_CONTENT]
    return sorted(content, key=lambda entry: _rank(entry.name), reverse=not last)


def _rank(name: str) -> int:
    return _TELLING.index(name) + 1 if name in _TELLING else 0


def holds_dataset(out: Path) -> bool:
    """Whether a finished dataset is there."""
    return (out / "dataset_info.json").is_file()


def holds_audit(out: Path) -> bool:
    """Whether a finished audit is there, and no dataset."""
    return (out / "audit.json").is_file() and not holds_dataset(out)


def check_destination(source: Path | None, out: Path, *, ours: bool, overwrite: bool) -> None:
    """Raises UserError unless `out` is free, or is the same command's earlier work and may be overwritten."""
    here = out.resolve()
    if source is not None:
        there = source.resolve()
        there = there.parent if there.is_file() else there
        if here.is_relative_to(there) or there.is_relative_to(here):
            raise UserError(f"--out {out} and --source {source} lie in each other; choose a folder apart")
    if not out.exists():
        return
    if out.is_dir() and not any(entry.name not in _NOT_CONTENT for entry in out.iterdir()):
        return
    if not ours:
        raise UserError(f"{out} exists and was not written by this command; give another --out")
    if not overwrite:
        raise UserError(f"{out} is finished; give another --out, or --config.overwrite=True to replace it")


@contextlib.contextmanager
def open_workdir(out: Path, key: bytes | None = None) -> Iterator[Workdir]:
    """The working folder of one run; kept when the run fails, removed when it succeeds.

    Args:
        out: where the result will be.
        key: the user's own, which is not stored. Without one a random key lies in the folder for as long as that is
            there, so that a run which goes on gives the same pseudonyms.

    Raises:
        UserError: it cannot be written, or another run holds it.
    """
    out = out.resolve()  # a link is followed, not replaced
    inside = out.is_dir() and (os.path.ismount(out) or not os.access(out.parent, os.W_OK))
    folder = out / INSIDE if inside else out.parent / f"{out.name}.partial"
    with disk_errors(folder):
        (folder / "cache").mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"another run is preparing {out} (it holds {folder}/lock)") from None
        _remove_leftovers(folder)
        try:
            with disk_errors(out, kept="finished images are kept"):
                yield Workdir(out, folder, key or _secret(folder / "secret"))
        except BaseException:
            if not any((folder / "cache").iterdir()) and not (folder / "quarantine.csv").exists():
                shutil.rmtree(folder, ignore_errors=True)  # it failed before anything was worth keeping
            raise
        shutil.rmtree(folder, ignore_errors=True)


def _remove_leftovers(folder: Path) -> None:
    """What a killed run was in the middle of writing."""
    for name in _LEFTOVERS:
        shutil.rmtree(folder / name, ignore_errors=True)
    for half in folder.glob(".phantom-*"):
        shutil.rmtree(half, ignore_errors=True)
    for half in (folder / "cache").glob("*.tmp"):
        half.unlink(missing_ok=True)


def _secret(path: Path) -> bytes:
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(secrets.token_bytes(32))
    return path.read_bytes()
