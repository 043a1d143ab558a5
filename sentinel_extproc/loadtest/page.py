"""A report as one HTML page that needs nothing else: no script, no fetch, its style inside."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from sentinel_extproc import __version__
from sentinel_extproc.admin.page.html import Child, Html, document, el, text

from .charts import Axis, Format, Line, drawing, from_zero, plain_number, powers
from .outcome import Result
from .report import SHOWN, Report, Row, Times
from .terminal import milliseconds
from .thresholds import Verdict

_CURVE = (10, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 99.99)
_MODELS = {"open": "requests/s", "closed": "users"}


def page(report: Report, verdicts: Sequence[Verdict]) -> bytes:
    """The page, UTF-8."""
    return document(_head(), el("body", el("main", *_sections(report, verdicts))))


def _head() -> Html:
    style = _style()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return text(
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("title", "Load test - Sentinel"),
        # A file of ours, and the policy names its hash.
        Html(f"<style>{style}</style>"),
    )


@cache
def _style() -> str:
    return Path(__file__).with_name("page.css").read_text(encoding="utf-8")


def _sections(report: Report, verdicts: Sequence[Verdict]) -> Iterable[Html]:
    load = report.scenario.load
    how_much = f"{load.rate:g}" if load.model == "open" else f"{load.users:,}"
    yield el("h1", f"Load test of {report.scenario.target}")
    yield el(
        "p",
        f"{report.started_at} · {load.model} model, {how_much} {_MODELS[load.model]} · "
        f"{report.lasted_s:.1f} s, ended by {report.ended_by.replace('_', ' ')} · "
        f"{report.users:,} tokens · seed {report.scenario.seed} · sentinel-extproc {__version__}",
        class_="lead",
    )
    yield _tiles(report.all)
    if verdicts:
        yield el("h2", "Conditions")
        yield _verdicts(verdicts)
    yield el("h2", "Over time")
    yield el("div", *_over_time(report), class_="charts")
    yield el("h2", "How long it took")
    yield el("div", *_curves(report.all), class_="charts")
    yield el("h2", "By kind of request")
    rows = (*report.kinds, report.all) if len(report.kinds) > 1 else report.kinds
    yield _kinds(rows)
    yield el("h2", "Times, ms")
    yield _times(rows)
    if report.all.reasons or len(report.all.statuses) > 1:
        yield el("h2", "Statuses, refusals and failures")
        yield _whys(report.all)
    yield el("h2", "How to read this")
    yield el("ul", *(el("li", note) for note in report.notes()), class_="notes")
    yield el("h2", "The scenario")
    # Less what may hold a secret.
    shown = report.scenario.model_dump(
        mode="json", exclude={"users": True, "mix": {"__all__": {"headers"}}}
    )
    yield el(
        "div",
        el("pre", json.dumps(shown, indent=1)),
        class_="scroll",
        tabindex=0,
        role="region",
        aria_label="The scenario",
    )


def _tiles(row: Row) -> Html:
    share = row.failed / row.requests if row.requests else 0.0
    tiles: list[tuple[str, Child, str | None]] = [
        ("answered well", text(f"{row.rps:,.1f} ", el("small", "/s")), None),
        ("output tokens", text(f"{row.tokens_per_s:,.0f} ", el("small", "/s")), None),
        ("first token, p99", _ms(row.ttft.at("p99")), None),
        ("whole answer, p99", _ms(row.total.at("p99")), None),
        ("refused", f"{row.refused:,}", None),
        (
            "failed",
            text(f"{row.failed:,} ", el("small", f"{share:.1%}")),
            "bad" if row.failed else None,
        ),
    ]
    return el(
        "dl",
        *(
            el("div", el("dt", name), el("dd", value, class_=mood), class_="tile")
            for name, value, mood in tiles
        ),
        class_="tiles",
    )


def _ms(seconds: float | None) -> Html:
    return text("-") if seconds is None else text(f"{milliseconds(seconds)} ", el("small", "ms"))


def _verdicts(verdicts: Sequence[Verdict]) -> Html:
    rows = [
        (
            el("span", "failed" if one.failed else "held", class_="bad" if one.failed else "ok"),
            f"fail if {one.text}",
            one.shown(),
        )
        for one in verdicts
    ]
    return _table("Conditions", ("Verdict", "Condition", "Measured"), rows, numbers={2})


def _over_time(report: Report) -> Iterable[Html]:
    size, bins = report.bin_s, report.bins
    moments = [float(n * size) for n in range(len(bins))]
    across = from_zero(max(1.0, (len(bins) - 1) * size), lambda value: f"{value:g} s")

    def over_time(title: str, *lines: tuple[str, Sequence[float | None]]) -> Html:
        drawn = [Line(name, list(zip(moments, values, strict=True))) for name, values in lines]
        highest = max((y for line in drawn for _, y in line.points if y is not None), default=0.0)
        up = from_zero(highest, plain_number)
        return _figure(title, drawn, across, up, ("from second", lambda x: f"{x:g}"))

    yield over_time(
        "Requests per second, by how they ended",
        *(
            (result.value, [bin_.results[result] / size for bin_ in bins])
            for result in (Result.OK, Result.REFUSED, Result.FAILED)
        ),
    )
    for title, found in (
        ("First token, ms", [Times(bin_.ttft) for bin_ in bins]),
        ("Whole answer, ms", [Times(bin_.total) for bin_ in bins]),
    ):
        if any(times.histogram.count for times in found):
            names = ("p50", "p99")
            yield over_time(title, *((n, [_thousand(t.at(n)) for t in found]) for n in names))
    yield over_time("Requests at once", ("running", [float(bin_.running) for bin_ in bins]))


def _curves(row: Row) -> Iterable[Html]:
    # By how few are slower, so that the tail is in full view.
    across = Axis(tuple((_fewer(p), f"{p:g}%") for p in (0, 50, 90, 99, 99.9, 99.99)), log=True)
    for title, shown in (
        (
            "Percentiles: first token and whole answer, ms",
            (("first token", row.ttft), ("whole answer", row.total)),
        ),
        ("Percentiles: between two tokens of a stream, ms", (("between tokens", row.gap),)),
    ):
        lines = [
            Line(name, [(_fewer(p), _thousand(one.histogram.percentile_s(p))) for p in _CURVE])
            for name, one in shown
            if one.histogram.count
        ]
        seen = [y for line in lines for _, y in line.points if y is not None]
        if seen:
            up = powers(max(0.1, min(seen)), max(seen), plain_number)
            head = ("percentile", lambda x: f"{100 - 100 / x:.4g} %")
            yield _figure(title, lines, across, up, head)


def _figure(
    title: str, lines: Sequence[Line], across: Axis, up: Axis, first: tuple[str, Format]
) -> Html:
    keys = [el("span", line.name, class_=f"key key-{n}") for n, line in enumerate(lines)]
    xs = [x for x, _ in lines[0].points]
    columns = [[y for _, y in line.points] for line in lines]
    rows = [
        (first[1](x), *("-" if y is None else plain_number(y) for y in ys))
        for x, *ys in zip(xs, *columns, strict=True)
    ]
    head = (first[0], *(line.name for line in lines))
    return el(
        "figure",
        el("figcaption", el("h3", title), *keys),
        drawing(lines, across, up, f"{title}; the numbers are in the table below"),
        el(
            "details",
            el("summary", "As a table"),
            _table(title, head, rows, numbers=set(range(len(head)))),
        ),
    )


def _kinds(rows: Sequence[Row]) -> Html:
    head = ("Kind", "Sent", "Ok", "Refused", "Failed", "Left", "Cut", "Ok/s", "Output tokens/s")
    found = [
        (
            row.name,
            *(f"{n:,}" for n in (row.requests, row.ok, row.refused, row.failed, row.left, row.cut)),
            f"{row.rps:,.1f}",
            f"{row.tokens_per_s:,.0f}",
        )
        for row in rows
    ]
    return _table("By kind of request", head, found, numbers=set(range(1, len(head))))


def _times(rows: Sequence[Row]) -> Html:
    head = ("Kind", "What", "n", "mean", *SHOWN, "max")
    found = [
        (
            row.name,
            what,
            f"{times.histogram.count:,}",
            *(milliseconds(times.at(name)) for name in ("mean", *SHOWN, "max")),
        )
        for row in rows
        for what, times in (
            ("first token", row.ttft),
            ("between tokens", row.gap),
            ("whole answer", row.total),
            ("late sending", row.lag),
        )
        if times.histogram.count
    ]
    return _table("Times in milliseconds", head, found, numbers=set(range(2, len(head))))


def _whys(row: Row) -> Html:
    found = [(f"HTTP {status}", "status", f"{n:,}") for status, n in row.statuses.items()]
    found += [(why, "reason", f"{n:,}") for why, n in row.reasons.items()]
    return _table("Statuses and reasons", ("What", "Is a", "Times"), found, numbers={2})


def _table(
    caption: str, head: Sequence[str], rows: Sequence[Sequence[Child]], *, numbers: set[int]
) -> Html:
    def class_(place: int) -> str | None:
        return "number" if place in numbers else None

    titles = (el("th", name, scope="col", class_=class_(n)) for n, name in enumerate(head))
    body = (
        el(
            "tr",
            *(
                el("td" if n else "th", one, scope=None if n else "row", class_=class_(n))
                for n, one in enumerate(row)
            ),
        )
        for row in rows
    )
    # The region can be scrolled by keyboard where it is too narrow for the table.
    return el(
        "div",
        el(
            "table",
            el("caption", caption, class_="unseen"),
            el("thead", el("tr", *titles)),
            el("tbody", *body),
        ),
        class_="scroll",
        role="region",
        tabindex=0,
        aria_label=caption,
    )


def _fewer(percent: float) -> float:
    return 100 / (100 - percent)


def _thousand(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3
