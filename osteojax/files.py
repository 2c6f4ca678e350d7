"""Files that are whole or absent."""

import os
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Replaces the file in one step: a reader, or a crash, finds the old text or the new one, never a half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
