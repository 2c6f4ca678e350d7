"""What a person sees: a bar where a terminal is attached, plain log lines where not."""

import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

log = logging.getLogger(__name__)


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, to: Any = None) -> None:
    """A table on standard error, or on `to`; only the first process prints."""
    if jax.process_index() == 0:
        table = Table(*header, title=title)
        for row in rows:
            table.add_row(*row)
        stream = to or sys.stderr
        # rich takes a file to be 80 columns wide, which breaks most rows.
        Console(file=stream, width=None if stream.isatty() else 120).print(table)


class Progress:
    """Progress of a run of known length; use it as a context."""

    def __init__(self, title: str, total: int, done: int) -> None:
        self._total = total
        console = Console(stderr=True)
        self._bar = Bar(
            TextColumn(title),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}"),
            console=console,
            disable=not console.is_terminal or jax.process_index() != 0,
        )
        self._task = self._bar.add_task(title, total=total, completed=done, status="")

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.stop()

    def update(self, step: int, loss: float) -> None:
        """A window of steps is done."""
        self._bar.update(self._task, completed=step, status=f"loss {loss:.4f}")
        if self._bar.disable:
            log.info("step %d/%d  loss %.4f", step, self._total, loss)

    def note(self, step: int, metrics: Mapping[str, float]) -> None:
        """A validation is done."""
        text = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        log.info("step %d/%d  validation: %s", step, self._total, text)
