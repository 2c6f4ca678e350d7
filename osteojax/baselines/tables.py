"""The rows of a comparison of baselines: for the terminal, as CSV, and as a page."""

from collections.abc import Sequence
from pathlib import Path

from osteojax import leaky
from osteojax import page as pages
from osteojax.baselines.fit import Baselines, Found
from osteojax.files import write_atomically, write_csv
from osteojax.metrics.difference import with_interval

HEADER = (
    "row",
    "features from",
    "classifier",
    "images",
    "patients",
    "value [95 %]",
    "difference [95 %]",
    "p (Holm)",
)
_COLUMNS = ("row", "metric", "images", "patients", "value", "low", "high", "difference", "difference_low",
            "difference_high", "p_holm")  # fmt: skip


def cells(asked: Baselines, found: Found) -> tuple[str, ...]:
    """One row of the table."""
    row, value = asked.rows[found.name], found.metrics[asked.metric]
    differs = found.difference
    return (
        found.name,
        ", ".join(row.sources),
        row.classifier,
        str(found.metrics["n"]),
        str(found.metrics["patients"]),
        with_interval(value["value"], *value["ci95"]),
        "-" if differs is None else with_interval(*differs[:3], sign=True),
        "-" if differs is None else f"{differs[3]:.3f}",
    )


def title(asked: Baselines, rows: Sequence[Found]) -> str:
    """What the table shows, with the mark of a leaky split before it."""
    return leaky.title(asked.metric.replace("_", " "), _mark(rows))


def _mark(rows: Sequence[Found]) -> leaky.Mark | None:
    return leaky.together(leaky.of(found.metrics) for found in rows)


def write_tables(out: Path, asked: Baselines, rows: Sequence[Found]) -> None:
    """Writes comparison.csv and comparison.html into the folder."""
    mark = _mark(rows)
    marked = [] if mark is None else [mark["reason"]]
    write_csv(
        out / "comparison.csv",
        [*_COLUMNS, *[leaky.KEY] * len(marked)],
        [
            [found.name, asked.metric, found.metrics["n"], found.metrics["patients"],
             found.metrics[asked.metric]["value"], *found.metrics[asked.metric]["ci95"],
             *(found.difference or [None] * 4), *marked]
            for found in rows
        ],
    )  # fmt: skip
    body = [
        pages.table(HEADER, [cells(asked, found) for found in rows], asked.metric.replace("_", " ")),
        pages.paragraph(
            f"95 % intervals over the patients; differences are to {asked.baseline}, paired on the same patients; "
            f"p-values of {len(rows) - 1} comparisons corrected by Holm."
        ),
    ]
    write_atomically(out / "comparison.html", pages.document("What a network must beat", body, mark=mark))
