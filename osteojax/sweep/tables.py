"""A comparison for the terminal, as CSV, Markdown and HTML."""

from collections.abc import Sequence
from pathlib import Path

from osteojax import leaky
from osteojax import page as pages
from osteojax.files import write_atomically, write_csv
from osteojax.metrics.difference import with_interval
from osteojax.metrics.registry import METRICS, scalars
from osteojax.sweep.compare import Estimate, Row
from osteojax.sweep.execute import Outcome
from osteojax.sweep.plan import Sweep

HEADER = (
    "variant",
    "seeds",
    "images",
    "patients",
    "value [95 %]",
    "sd over seeds",
    "difference [95 %]",
    "p (Holm)",
)


COLUMNS = (
    "variant", "metric", "seeds", "images", "patients", "value", "low", "high", "sd_over_seeds", "difference",
    "difference_low", "difference_high", "p_holm",
)  # fmt: skip


def cells(row: Row, metric: str) -> tuple[str, ...]:
    """One variant's line of a table about one metric."""
    spread = row.spread[metric]
    return (
        row.name,
        str(row.seeds),
        str(row.n),
        str(row.patients),
        _estimate(row.metrics[metric]),
        "-" if spread is None else f"{spread:.3f}",
        "-" if row.difference is None else _estimate(row.difference[metric], sign=True),
        "-" if row.p is None else f"{row.p[metric]:.3f}",
    )


def _estimate(of: Estimate, *, sign: bool = False) -> str:
    return with_interval(of.value, of.low, of.high, sign=sign)


def metrics_shown(sweep: Sweep) -> list[str]:
    """The sweep's own metric first, then those of a short summary."""
    headline = [name for name, metric in METRICS.members.items() if metric.headline and name in scalars()]
    return list(dict.fromkeys([sweep.metric, *headline]))


def write_comparison(out: Path, sweep: Sweep, rows: Sequence[Row], outcomes: Sequence[Outcome]) -> None:
    """Writes comparison.csv, .md and .html into the sweep's folder."""
    marked = mark_of(rows) is not None
    write_csv(
        out / "comparison.csv",
        [*COLUMNS, *[leaky.KEY] * marked],
        [_numbers(row, metric)[: len(COLUMNS) + marked] for row in rows for metric in scalars()],
    )
    write_atomically(out / "comparison.md", markdown(sweep, rows, outcomes))
    write_atomically(out / "comparison.html", page(sweep, rows, outcomes))


def _numbers(row: Row, metric: str) -> list[object]:
    value, difference = row.metrics[metric], row.difference and row.difference[metric]
    return [
        row.name, metric, row.seeds, row.n, row.patients, value.value, value.low, value.high, row.spread[metric],
        difference and difference.value, difference and difference.low, difference and difference.high,
        row.p and row.p[metric], row.mark and row.mark["reason"],
    ]  # fmt: skip


def mark_of(rows: Sequence[Row]) -> leaky.Mark | None:
    """The mark of a comparison: one variant that leaks makes all of it leaky."""
    return leaky.together(row.mark for row in rows)


def _notes(sweep: Sweep, rows: Sequence[Row], outcomes: Sequence[Outcome]) -> list[str]:
    mark = mark_of(rows)
    notes = [] if mark is None else [f"{leaky.told(mark)}."]
    notes += [
        "Mean over seeds with its 95 % interval over the patients of the test split; differences are to "
        f"{sweep.baseline}, paired on the same patients; p-values of {len(sweep.variants) - 1} comparisons "
        "corrected by Holm. An interval over patients says nothing of another hospital."
    ]
    if sweep.repeats > 1:
        notes.append(
            f"Each seed counts {sweep.repeats} times: the folds were dealt so often, to the same patients."
        )
    for outcome in outcomes:
        if outcome.state != "finished":
            notes.append(f"Not in the table: {outcome.run.name} ({outcome.state}).")
    return notes


def markdown(sweep: Sweep, rows: Sequence[Row], outcomes: Sequence[Outcome]) -> str:
    """The comparison as Markdown, a table for each metric shown."""
    lines = [f"# {leaky.title(f'Sweep {sweep.name}', mark_of(rows))}", ""]
    for metric in metrics_shown(sweep):
        lines += [f"## {metric.replace('_', ' ')}", "", "| " + " | ".join(HEADER) + " |"]
        lines += ["|" + "---|" * len(HEADER)]
        lines += [
            "| " + " | ".join(cell.replace("|", "\\|") for cell in cells(row, metric)) + " |" for row in rows
        ]
        lines += [""]
    return "\n".join([*lines, *_notes(sweep, rows, outcomes)]) + "\n"


def page(sweep: Sweep, rows: Sequence[Row], outcomes: Sequence[Outcome]) -> str:
    """The comparison as one page of HTML that needs no network."""
    body = [
        pages.table(HEADER, [cells(row, metric) for row in rows], metric.replace("_", " "))
        for metric in metrics_shown(sweep)
    ]
    body += [pages.paragraph(note) for note in _notes(sweep, rows, outcomes)]
    return pages.document(f"Sweep {sweep.name}", body, mark=mark_of(rows))
