"""What a person sees of long work: a bar where a terminal is attached, plain log lines where not."""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

log = logging.getLogger(__name__)
_SECONDS_BETWEEN_LINES = 20.0


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, to: Any = None) -> None:
    """A table on standard error, or on `to`."""
    table = Table(*header, title=title)
    for row in rows:
        table.add_row(*row)
    stream = to or sys.stderr
    # rich takes a file to be 80 columns wide, which breaks most rows.
    Console(file=stream, width=None if stream.isatty() else 120).print(table)


def _bar(title: str, *, active: bool = True) -> Bar:
    console = Console(stderr=True)
    return Bar(
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[status]}"),
        console=console,
        disable=not console.is_terminal or not active,
    )


@contextmanager
def progress(title: str, total: int, *, active: bool = True) -> Iterator[Callable[[], None]]:
    """Yields a function to call after each of `total` items; without a terminal a log line every 20 seconds."""
    done, last = 0, time.monotonic()
    with _bar(title, active=active) as bar:
        task = bar.add_task(title, total=total, status="")

        def advance() -> None:
            nonlocal done, last
            done += 1
            bar.advance(task)
            if bar.disable and (done == total or time.monotonic() - last > _SECONDS_BETWEEN_LINES):
                last = time.monotonic()
                log.info("%s: %d of %d", title, done, total)

        yield advance


class TrainingProgress:
    """Progress of a training run; use it as a context. Where it is not `active` there is no bar, only log lines."""

    def __init__(self, title: str, total: int, done: int, *, active: bool = True) -> None:
        self._total = total
        self._bar = _bar(title, active=active)
        self._task = self._bar.add_task(title, total=total, completed=done, status="")

    def __enter__(self) -> "TrainingProgress":
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
