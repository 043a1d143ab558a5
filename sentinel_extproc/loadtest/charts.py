"""Line charts as SVG, drawn here so that a page needs no script. Pure.

The lines' order decides their look: solid, dashed, dotted; so that no colour is needed to tell them
apart. Numbers are in a table beside each chart, which is what a screen reader gets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sentinel_extproc.admin.page.html import Html, el

WIDTH, HEIGHT = 640, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 14, 12, 28
_STEPS = (1, 2, 2.5, 5, 10)

Format = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Line:
    """One line; None leaves a hole."""

    name: str
    points: Sequence[tuple[float, float | None]]


@dataclass(frozen=True, slots=True)
class Axis:
    """One of both.

    Attributes:
        marks: where there is a mark, and what it says; the first and the last end the axis.
        log: logarithmic.
    """

    marks: tuple[tuple[float, str], ...]
    log: bool = False

    def place(self, value: float) -> float:
        """From 0 to 1."""
        low, high = self.marks[0][0], self.marks[-1][0]
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(max(value, 1e-9))
        return min(1.0, max(0.0, (value - low) / (high - low)))


def plain_number(value: float) -> str:
    """Four digits that matter, never with an exponent."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def from_zero(highest: float, say: Format) -> Axis:
    """From 0 to a round number that ``highest`` doesn't exceed, four to six marks."""
    highest = highest if highest > 0 else 1.0
    rough = highest / 5
    size = 10 ** math.floor(math.log10(rough))
    step = next(s * size for s in _STEPS if s * size >= rough * 0.999)
    count = max(1, math.ceil(highest / step - 1e-9))
    return Axis(tuple((n * step, say(n * step)) for n in range(count + 1)))


def powers(lowest: float, highest: float, say: Format) -> Axis:
    """Logarithmic, powers of ten around both."""
    low = math.floor(math.log10(max(lowest, 1e-6)))
    high = max(low + 1, math.ceil(math.log10(max(highest, 1e-6))))
    return Axis(tuple((10.0**n, say(10.0**n)) for n in range(low, high + 1)), log=True)


def drawing(lines: Sequence[Line], across: Axis, up: Axis, label: str) -> Html:
    """The chart itself, without its keys."""
    parts: list[Html] = []
    for value, says in up.marks:
        y = _y(up, value)
        parts.append(el("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(el("text", says, x=_LEFT - 6, y=y + 4, text_anchor="end", class_="mark"))
    for place, (value, says) in enumerate(across.marks):
        anchor = "start" if not place else "end" if place == len(across.marks) - 1 else "middle"
        x = _x(across, value)
        parts.append(el("text", says, x=x, y=HEIGHT - 6, text_anchor=anchor, class_="mark"))
    for place, line in enumerate(lines):
        parts.extend(_path(line, across, up, f"line line-{place}"))
    return el(
        "svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=label, class_="plot"
    )


def _path(line: Line, across: Axis, up: Axis, class_: str) -> list[Html]:
    runs: list[list[str]] = [[]]
    for x, y in line.points:
        if y is None:
            runs.append([])
        else:
            runs[-1].append(f"{_x(across, x)} {_y(up, y)}")
    # A point alone is drawn as a line of no length, which round ends make a dot.
    return [
        el("path", d="M" + "L".join(run * 2 if len(run) == 1 else run), class_=class_)
        for run in runs
        if run
    ]


def _x(axis: Axis, value: float) -> float:
    return round(_LEFT + axis.place(value) * (WIDTH - _LEFT - _RIGHT), 1)


def _y(axis: Axis, value: float) -> float:
    return round(HEIGHT - _BOTTOM - axis.place(value) * (HEIGHT - _TOP - _BOTTOM), 1)
