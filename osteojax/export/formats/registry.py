"""The registry that `osteojax export --format` chooses from."""

from collections.abc import Callable
from pathlib import Path

from osteojax.registry import Registry
from osteojax.run.open import Run

# `f(run, folder)`: writes its files into an existing folder that it shares with the other formats.
FORMATS: Registry[Callable[[Run, Path], None]] = Registry("format of export")
