"""A run's tables for the terminal and for docs/benchmarks.md, and its picture.

    python -m bench.report [bench/results.json]

writes the page's part between its marks, and the picture, anew from a run's results.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.table import Table

from bench.results import (
    Result,
    Run,
    added,
    median,
    per_chunk_us,
    processor,
    targets,
    whole,
)
from bench.variants import EMPTY, FLOOR, OURS, PLAIN
from scripts.picture import WIDTH, Picture

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results.json"
PAGE = ROOT / "docs" / "benchmarks.md"
PICTURE = ROOT / "docs" / "benchmarks.svg"
BEGIN, END = "<!-- begin: make bench -->", "<!-- end: make bench -->"

Rows = list[list[str]]
_HEAD = [
    "gateway",
    "CPU us",
    "least-most",
    "of empty",
    "Envoy us",
    "Redis us",
    "added p50 ms",
    "added p99 ms",
    "p50 ms",
    "p99 ms",
    "calls/s",
    "calls/s per core",
    "whole gateway's",
]


def rows(by: Mapping[str, Sequence[Result]], *, against: str) -> Rows:
    """One scenario: a row for each gateway.

    Args:
        against: whose CPU is 1.
    """
    plain = by.get(PLAIN)
    one = median(by[against], processor) if against in by else 0.0
    found = []
    for name, results in by.items():
        own = median(results, processor)
        spread = [result.processor_us for result in results]
        adds = [
            "" if plain is None or name == PLAIN else f"{added(results, plain, value)[0]:.2f}"
            for value in (lambda r: r.p50_ms, lambda r: r.p99_ms)
        ]
        found.append(
            [
                name,
                f"{own:,.0f}" if own else "",
                f"{min(spread):,.0f}-{max(spread):,.0f}" if own else "",
                f"{own / one:.2f}" if own and one else "",
                _count(median(results, lambda r: r.envoy_us)),
                _count(median(results, lambda r: r.redis_us)),
                *adds,
                f"{median(results, lambda r: r.p50_ms):,.2f}",
                f"{median(results, lambda r: r.p99_ms):,.2f}",
                f"{median(results, lambda r: r.calls_per_s):,.0f}",
                f"{1e6 / own:,.0f}" if own else "",
                f"{1e6 / median(results, whole):,.0f}",
            ]
        )
    return found


def table(title: str, by: Mapping[str, Sequence[Result]], *, against: str) -> Table:
    """One scenario, for the terminal."""
    shown = Table(title=title, title_justify="left")
    for head in _HEAD:
        shown.add_column(head, justify="left" if head == "gateway" else "right")
    for row in rows(by, against=against):
        shown.add_row(*row)
    return shown


def page(run: Run) -> str:
    """The part of docs/benchmarks.md, without its marks."""
    return "\n".join(_parts(run)) + "\n"


def _parts(run: Run) -> Iterator[str]:
    yield "; ".join(f"{key}: {value}" for key, value in run.about.items()) + "."
    for note in run.notes:
        yield f"\n{note}"
    yield "\n![CPU for each JSON call, by gateway and process](benchmarks.svg)"
    yield "\n### Targets\n"
    yield from _markdown(["what", "target", "measured", "met"], _targets(run))
    for scenario in run.scenarios:
        if by := run.results.get(scenario.name):
            yield f"\n### {scenario.name}\n"
            yield from _markdown(_HEAD, rows(by, against=FLOOR))
    chunks = _chunks(run)
    if chunks:
        yield "\n### One more chunk\n"
        yield from _markdown(["gateway", "CPU us", "of empty", "Envoy us"], chunks)
    if run.resident_bytes:
        yield "\n### Memory\n"
        yield from _markdown(
            ["gateway", "after the load, MiB", "each open stream, kB"], _memory(run)
        )
    for name, by in run.stages.items():
        yield f"\n### Ours, changed: {name}\n"
        yield from _markdown(
            _HEAD[:4] + _HEAD[4:6] + _HEAD[8:],
            [row[:6] + row[8:] for row in rows(by, against=OURS)],
        )


def _targets(run: Run) -> Rows:
    own = next(name for name, kind in EMPTY.items() if kind == "native")
    words = {True: "yes", False: "no", None: "not measured"}
    return [
        [
            one.name,
            f"{'at least' if one.at_least else 'at most'} {one.bound:g}",
            "" if one.measured is None else f"{one.measured:.2f}",
            words[one.met],
        ]
        for one in targets(run, ours=OURS, floor=FLOOR, own_floor=own, plain=PLAIN)
    ]


def _chunks(run: Run) -> Rows:
    floor = per_chunk_us(run, FLOOR)
    names = dict.fromkeys(name for by in run.results.values() for name in by)
    found = []
    for name in names:
        cost = per_chunk_us(run, name)
        envoy = per_chunk_us(run, name, lambda r: r.envoy_us)
        if cost is not None and envoy is not None:
            ratio = f"{cost / floor:.2f}" if floor and cost else ""
            found.append([name, f"{cost:.1f}" if cost else "", ratio, f"{envoy:.1f}"])
    return found


def _memory(run: Run) -> Rows:
    return [
        [
            name,
            f"{held / 2**20:,.0f}",
            f"{run.stream_bytes[name] / 1000:,.1f}" if name in run.stream_bytes else "",
        ]
        for name, held in run.resident_bytes.items()
    ]


def picture(run: Run) -> str:
    """CPU for each JSON call at 16 connections, by process, as SVG."""
    scenario = next(one for one in run.scenarios if not one.chunks and one.connections == 16)
    by = run.results[scenario.name]
    shown = [
        (name, [median(found, value) for value in _PARTS.values()]) for name, found in by.items()
    ]
    longest = max(sum(costs) for _, costs in shown)
    # One that takes ten times as much as the others would leave nothing of them to be seen.
    second = sorted(sum(costs) for _, costs in shown)[-2]
    top = min(longest, second * 1.6)
    left, right, step = 170, WIDTH - 90, 44
    words = "; ".join(f"{name}: {sum(costs):,.0f} us" for name, costs in shown)
    p = Picture(
        f"CPU for each call: {scenario.name}",
        f"Microseconds of CPU for each call, by process. {words}.",
        110 + step * len(shown),
    )
    p.text(20, 32, f"CPU for each call, us: {scenario.name}", "strong")
    x = 20.0
    for part, look in zip(_PARTS, _LOOKS, strict=True):
        p.box(x, 48, 14, 14, look, 2)
        p.text(x + 20, 60, part, "small muted")
        x += 46 + 8 * len(part)
    for n, (name, costs) in enumerate(shown):
        y = 84 + n * step
        for line, part_of in enumerate(name.split(", ", 1)):
            p.text(
                left - 10,
                y + 13 + 15 * line,
                part_of,
                "small" if line == 0 else "small muted",
                "end",
            )
        x = float(left)
        for cost, look in zip(costs, _LOOKS, strict=True):
            width = min(cost / top, 1.0) * (right - left)
            width = max(0.0, min(width, right - x))
            if width:
                p.box(x, y, width, 24, look, 2)
            x += width
        cut = " (cut)" if sum(costs) > top else ""
        p.text(x + 6, y + 17, f"{sum(costs):,.0f}{cut}", "small")
    return p.svg()


_PARTS = {
    "the gateway's own process": processor,
    "Envoy": lambda r: r.envoy_us,
    "Redis": lambda r: r.redis_us,
}
_LOOKS = ("blue", "amber", "red")


def _markdown(head: Sequence[str], rows: Rows) -> Iterator[str]:
    # Columns in which there is nothing are left out.
    kept = [n for n in range(len(head)) if any(row[n] for row in rows)]
    yield "| " + " | ".join(head[n] for n in kept) + " |"
    yield "|" + "|".join("---" if not n else "---:" for n in kept) + "|"
    for row in rows:
        yield "| " + " | ".join(row[n] for n in kept) + " |"


def _count(value: float) -> str:
    return f"{value:,.0f}" if value else ""


def between(text: str, part: str) -> str:
    """A page with ``part`` between its marks.

    Raises:
        ValueError: it has no marks.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no {BEGIN} and {END} in it")
    return f"{before}{BEGIN}\n\n{part}\n{END}{after}"


def record(run: Run) -> None:
    """Write the results, the page and the picture."""
    RESULTS.write_text(json.dumps(run.plain(), indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(between(PAGE.read_text(encoding="utf-8"), page(run)), encoding="utf-8")
    PICTURE.write_text(picture(run), encoding="utf-8")


def read(file: Path) -> Run:
    """A run's results.

    Raises:
        ValueError: of another format.
    """
    return Run.read(json.loads(file.read_text(encoding="utf-8")))


if __name__ == "__main__":
    record(read(Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS))
