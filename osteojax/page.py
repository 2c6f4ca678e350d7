"""One self-contained page of HTML: light and dark, on a phone, on paper, and for a screen reader.

Whatever is shown is untrusted and escaped here; what is already HTML is marked as `Html`.
"""

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from osteojax import leaky

STYLE = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")

_STAMP = f'<text x="50%" y="50%" text-anchor="middle" fill="#b00020" opacity="0.6" font-size="22">{leaky.WORDS}</text>'


class Html(str):
    """Text that is HTML already."""


def text(value: object) -> Html:
    """A value as HTML: escaped, unless it is that already."""
    return value if isinstance(value, Html) else Html(html.escape(str(value)))


def document(
    title: str,
    body: Iterable[str],
    *,
    sections: Mapping[str, str] | None = None,
    lead: str = "",
    mark: leaky.Mark | None = None,
) -> Html:
    """The whole page.

    Args:
        title: of the page, and its heading.
        body: HTML of the parts in order.
        sections: anchor -> name, for the list of contents.
        lead: HTML under the heading.
        mark: of what may measure memory: told on top, in the title and on every chart.
    """
    if mark is not None:
        title, lead = leaky.title(title, mark), note(leaky.told(mark)) + lead
        body = [re.sub("</svg>", f"{_STAMP}</svg>", part) for part in body]
    links = "".join(
        f'<li><a href="#{text(anchor)}">{text(name)}</a></li>' for anchor, name in (sections or {}).items()
    )
    contents = f'<nav aria-label="Contents"><ul>{links}</ul></nav>' if links else ""
    return Html(
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{text(title)}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><style>{STYLE}</style></head><body>'
        f"<header><h1>{text(title)}</h1>{lead}{contents}</header><main>{''.join(body)}</main></body></html>\n"
    )


def section(anchor: str, title: str, *parts: str) -> Html:
    """A part of the page with its heading."""
    return Html(f'<section id="{text(anchor)}"><h2>{text(title)}</h2>{"".join(parts)}</section>')


def paragraph(content: object, kind: str = "") -> Html:
    """A paragraph; `kind` is a class of the style."""
    return Html(f'<p class="{text(kind)}">{text(content)}</p>' if kind else f"<p>{text(content)}</p>")


def note(content: object, *, good: bool = False) -> Html:
    """A paragraph that stands out: a warning, or what is well."""
    return Html(f'<div class="note {"good" if good else "warn"}"><p>{text(content)}</p></div>')


def table(
    head: Sequence[object], rows: Iterable[Sequence[object]], caption: str, *, words: bool = False
) -> Html:
    """A table whose first column names the rows; numbers to the right, or `words` to the left."""
    kind = ' class="text"' if words else ""
    first, *others = head
    header = f'<th scope="col" class="text">{text(first)}</th>'
    header += "".join(f'<th scope="col"{kind}>{text(name)}</th>' for name in others)
    lines = []
    for name, *cells in rows:
        line = "".join(f"<td{kind}>{text(cell)}</td>" for cell in cells)
        lines.append(f'<tr><th scope="row">{text(name)}</th>{line}</tr>')
    return Html(
        f'<div class="scroll" role="region" tabindex="0" aria-label="{text(caption)}"><table>'
        f"<caption>{text(caption)}</caption><thead><tr>{header}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def details(summary: str, *parts: str) -> Html:
    """What is folded away until it is asked for."""
    return Html(f"<details><summary>{text(summary)}</summary>{''.join(parts)}</details>")
