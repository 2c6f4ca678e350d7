"""A comparison for the terminal, as CSV, Markdown and HTML."""

import html
from collections.abc import Sequence
from pathlib import Path

from osteojax.files import write_atomically, write_csv
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
    if of.value is None:
        return "-"
    form = "+.3f" if sign else ".3f"
    interval = "-" if of.low is None or of.high is None else f"{of.low:{form}}, {of.high:{form}}"
    return f"{of.value:{form}} [{interval}]"


def metrics_shown(sweep: Sweep) -> list[str]:
    """The sweep's own metric first, then those of a short summary."""
    headline = [name for name, metric in METRICS.members.items() if metric.headline and name in scalars()]
    return list(dict.fromkeys([sweep.metric, *headline]))


def write_comparison(out: Path, sweep: Sweep, rows: Sequence[Row], outcomes: Sequence[Outcome]) -> None:
    """Writes comparison.csv, .md and .html into the sweep's folder."""
    write_csv(
        out / "comparison.csv",
        COLUMNS,
        [_numbers(row, metric) for row in rows for metric in scalars()],
    )
    write_atomically(out / "comparison.md", markdown(sweep, rows, outcomes))
    write_atomically(out / "comparison.html", page(sweep, rows, outcomes))


def _numbers(row: Row, metric: str) -> list[object]:
    value, difference = row.metrics[metric], row.difference and row.difference[metric]
    return [
        row.name, metric, row.seeds, row.n, row.patients, value.value, value.low, value.high, row.spread[metric],
        difference and difference.value, difference and difference.low, difference and difference.high,
        row.p and row.p[metric],
    ]  # fmt: skip


def _notes(sweep: Sweep, outcomes: Sequence[Outcome]) -> list[str]:
    notes = [
        "Mean over seeds with its 95 % interval over the patients of the test split; differences are to "
        f"{sweep.baseline}, paired on the same patients; p-values of {len(sweep.variants) - 1} comparisons "
        "corrected by Holm. An interval over patients says nothing of another hospital."
    ]
    for outcome in outcomes:
        if outcome.state != "finished":
            notes.append(f"Not in the table: {outcome.run.name} ({outcome.state}).")
    return notes


def markdown(sweep: Sweep, rows: Sequence[Row], outcomes: Sequence[Outcome]) -> str:
    """The comparison as Markdown, a table for each metric shown."""
    lines = [f"# Sweep {sweep.name}", ""]
    for metric in metrics_shown(sweep):
        lines += [f"## {metric.replace('_', ' ')}", "", "| " + " | ".join(HEADER) + " |"]
        lines += ["|" + "---|" * len(HEADER)]
        lines += [
            "| " + " | ".join(cell.replace("|", "\\|") for cell in cells(row, metric)) + " |" for row in rows
        ]
        lines += [""]
    return "\n".join([*lines, *_notes(sweep, outcomes)]) + "\n"


_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#1b1b1b;background:#fff}
table{border-collapse:collapse;margin:1rem 0;display:block;overflow-x:auto}
td,th{padding:.35rem .7rem;border-bottom:1px solid #ccc;text-align:left;white-space:nowrap}
@media(prefers-color-scheme:dark){body{color:#eee;background:#161616}td,th{border-color:#444}}
"""


def page(sweep: Sweep, rows: Sequence[Row], outcomes: Sequence[Outcome]) -> str:
    """The comparison as one page of HTML that needs no network."""
    text = html.escape
    parts = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Sweep {text(sweep.name)}</title>',
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style>',
        f"<main><h1>Sweep {text(sweep.name)}</h1>",
    ]
    for metric in metrics_shown(sweep):
        parts.append(f"<table><caption>{text(metric.replace('_', ' '))}</caption><thead><tr>")
        parts += [f'<th scope="col">{text(name)}</th>' for name in HEADER]
        parts.append("</tr></thead><tbody>")
        for row in rows:
            first, *rest = (text(cell) for cell in cells(row, metric))
            parts.append(
                f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>'
            )
        parts.append("</tbody></table>")
    parts += [f"<p>{text(note)}</p>" for note in _notes(sweep, outcomes)]
    return "\n".join([*parts, "</main></html>"]) + "\n"
