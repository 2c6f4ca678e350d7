"""Charts as SVG: text that can be selected, colours of the page, and a dash pattern beside each colour."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from osteojax.page import Html, text

_WIDTH, _HEIGHT = 380.0, 300.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 12.0, 12.0, 44.0
_DASHES = ("", "7 3", "2 3", "9 3 2 3")
_POINTS = 400


@dataclasses.dataclass
class Chart:
    """A chart of lines, bands and points.

    Attributes:
        title: what a screen reader says, and the caption.
        x, y: what the axes say.
        x_range, y_range: what they show.
    """

    title: str
    x: str
    y: str
    x_range: tuple[float, float] = (0.0, 1.0)
    y_range: tuple[float, float] = (0.0, 1.0)
    note: str = ""
    _parts: list[str] = dataclasses.field(default_factory=list)
    _legend: list[tuple[int, str]] = dataclasses.field(default_factory=list)

    def line(self, x: Sequence[float], y: Sequence[float], series: int, name: str) -> "Chart":
        """A line, named in the legend."""
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(*self._thinned(x, y), strict=True))
        self._parts.append(
            f'<polyline points="{points}" fill="none" stroke="{_colour(series)}" stroke-width="2" '
            f'stroke-dasharray="{_DASHES[series % 4]}"/>'
        )
        self._legend.append((series, name))
        return self

    def band(self, x: Sequence[float], low: Sequence[float], high: Sequence[float], series: int) -> "Chart":
        """What lies between two lines."""
        there, back = self._thinned(x, high), self._thinned(x, low)
        path = [*zip(*there, strict=True), *reversed(list(zip(*back, strict=True)))]
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in path)
        self._parts.append(f'<polygon points="{points}" fill="{_colour(series)}" opacity="0.16"/>')
        return self

    def bars(
        self,
        x: Sequence[float],
        y: Sequence[float],
        low: Sequence[float],
        high: Sequence[float],
        series: int,
        name: str,
    ) -> "Chart":
        """Points with their intervals."""
        for a, b, c, d in zip(x, y, low, high, strict=True):
            px, py, p_low, p_high = self._x(a), self._y(b), self._y(c), self._y(d)
            self._parts.append(
                f'<line x1="{px:.1f}" x2="{px:.1f}" y1="{p_low:.1f}" y2="{p_high:.1f}" stroke="{_colour(series)}"/>'
                f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3.5" fill="{_colour(series)}"/>'
            )
        self._legend.append((series, name))
        return self

    def diagonal(self) -> "Chart":
        """Where x equals y."""
        return self.guide(self.x_range, self.y_range)

    def guide(self, x: Sequence[float], y: Sequence[float]) -> "Chart":
        """A thin line that compares."""
        points = " ".join(f"{self._x(a):.1f},{self._y(b):.1f}" for a, b in zip(x, y, strict=True))
        self._parts.append(
            f'<polyline points="{points}" fill="none" stroke="var(--soft)" stroke-dasharray="3 3"/>'
        )
        return self

    def figure(self) -> Html:
        """The chart with its caption and legend."""
        caption = f"<strong>{text(self.title)}</strong> {text(self.note)}"
        return Html(f"<figure>{self._svg()}<figcaption>{caption}</figcaption></figure>")

    def _svg(self) -> str:
        bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
        parts = [
            f'<svg viewBox="0 0 {_WIDTH:.0f} {_HEIGHT + 18 * ((len(self._legend) + 1) // 2):.0f}" role="img" '
            f'aria-label="{text(self.title)}: {text(self.y)} against {text(self.x)}">'
        ]
        for share in np.linspace(0, 1, 6):
            a = self.x_range[0] + share * (self.x_range[1] - self.x_range[0])
            b = self.y_range[0] + share * (self.y_range[1] - self.y_range[0])
            px, py = self._x(a), self._y(b)
            parts.append(
                f'<line x1="{_LEFT}" x2="{right}" y1="{py:.1f}" y2="{py:.1f}" stroke="var(--line)" stroke-width="0.6"/>'
            )
            parts.append(f'<text x="{_LEFT - 6}" y="{py + 4:.1f}" text-anchor="end">{_tick(b)}</text>')
            parts.append(f'<text x="{px:.1f}" y="{bottom + 16}" text-anchor="middle">{_tick(a)}</text>')
        middle = (_TOP + bottom) / 2
        parts.append(
            f'<text x="{(_LEFT + right) / 2}" y="{_HEIGHT - 8}" text-anchor="middle">{text(self.x)}</text>'
        )
        parts.append(
            f'<text x="13" y="{middle}" text-anchor="middle" transform="rotate(-90 13 {middle})">{text(self.y)}</text>'
        )
        parts += self._parts
        for place, (series, name) in enumerate(self._legend):
            px, py = _LEFT + 160 * (place % 2), _HEIGHT + 10 + 18 * (place // 2)
            parts.append(
                f'<line x1="{px}" x2="{px + 24}" y1="{py - 4}" y2="{py - 4}" stroke="{_colour(series)}" '
                f'stroke-width="2.5" stroke-dasharray="{_DASHES[series % 4]}"/>'
                f'<text x="{px + 30}" y="{py}">{text(name)}</text>'
            )
        return "".join([*parts, "</svg>"])

    def _thinned(self, x: Sequence[float], y: Sequence[float]) -> tuple[list[float], list[float]]:
        places = np.unique(np.linspace(0, len(x) - 1, min(len(x), _POINTS)).round().astype(int))
        return [self._x(x[i]) for i in places], [self._y(y[i]) for i in places]

    def _x(self, value: float) -> float:
        low, high = self.x_range
        share = min(max((value - low) / ((high - low) or 1), 0.0), 1.0)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def _y(self, value: float) -> float:
        low, high = self.y_range
        share = min(max((value - low) / ((high - low) or 1), 0.0), 1.0)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _BOTTOM - _TOP)


def _tick(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2g}"


def _colour(series: int) -> str:
    return f"var(--c{series % 4})"


def confusion(matrix: Sequence[Sequence[int]], names: Sequence[str]) -> Html:
    """A confusion matrix: counts, shaded by the share of their row."""
    side, left, top = 84.0, 96.0, 40.0
    size = left + side * len(names) + 6, top + side * len(names) + 6
    parts = [
        f'<svg viewBox="0 0 {size[0]:.0f} {size[1]:.0f}" role="img" aria-label="Confusion matrix">',
        f'<text x="{left + side * len(names) / 2}" y="12" text-anchor="middle">predicted</text>',
    ]
    for row, counts in enumerate(matrix):
        total = sum(counts) or 1
        y = top + side * row
        parts.append(
            f'<text x="{left - 6}" y="{y + side / 2 + 4}" text-anchor="end">{text(names[row])}</text>'
        )
        parts.append(
            f'<text x="{left + side * (row + 0.5)}" y="32" text-anchor="middle">{text(names[row])}</text>'
        )
        for column, count in enumerate(counts):
            x = left + side * column
            # Light enough everywhere for the page's ink to be read on it.
            parts.append(
                f'<rect x="{x}" y="{y}" width="{side - 3}" height="{side - 3}" fill="var(--c0)" '
                f'opacity="{0.06 + 0.4 * count / total:.2f}"/>'
                f'<text x="{x + side / 2 - 2}" y="{y + side / 2}" text-anchor="middle">{count}</text>'
                f'<text x="{x + side / 2 - 2}" y="{y + side / 2 + 17}" text-anchor="middle">'
                f"{100 * count / total:.0f} %</text>"
            )
    return Html("".join([*parts, "</svg>"]))
