"""A report as tables in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sentinel_extproc.safe_text import for_terminal

from .report import Report, Row, Times
from .thresholds import Verdict

_TIMES = ("p50", "p90", "p99", "max")


def show(console: Console, report: Report, verdicts: Sequence[Verdict]) -> None:
    """Print it."""
    load = report.scenario.load
    what = f"{load.users} users" if load.model == "closed" else f"{load.rate:g} requests/s"
    ended = {"interrupted": ", interrupted", "max_requests": ", as many as were allowed"}
    console.print(
        f"{report.scenario.target}: {load.model} model, {what}, "
        f"{report.lasted_s:.1f} s{ended.get(report.ended_by, '')}",
        markup=False,
        highlight=False,
    )
    rows = (*report.kinds, report.all) if len(report.kinds) > 1 else report.kinds
    console.print(_counts(rows))
    if any(times.histogram.count for row in rows for times in (row.ttft, row.gap, row.total)):
        console.print(_times(rows))
    if report.all.reasons:
        console.print(_reasons(report.all))
    for note in report.notes():
        console.print(f"- {note}", markup=False, highlight=False)
    for verdict in verdicts:
        mark = Text("✗ ", style="red") if verdict.failed else Text("✓ ", style="green")
        console.print(mark + Text(f"fail if {verdict.text}: {verdict.shown()}"))


def milliseconds(seconds: float | None) -> str:
    """For people: three digits that matter."""
    if seconds is None:
        return "-"
    ms = seconds * 1e3
    return f"{ms:.2f}" if ms < 10 else f"{ms:.1f}" if ms < 100 else f"{ms:,.0f}"


def _counts(rows: Sequence[Row]) -> Table:
    table = Table(title="Requests", title_justify="left")
    table.add_column("kind", overflow="fold")
    for head in ("sent", "ok", "refused", "failed", "left", "ok/s", "output tokens/s"):
        table.add_column(head, justify="right")
    for row in rows:
        table.add_row(
            Text(for_terminal(row.name)),
            f"{row.requests:,}",
            f"{row.ok:,}",
            f"{row.refused:,}",
            Text(f"{row.failed:,}", style="bold red" if row.failed else ""),
            f"{row.left:,}",
            f"{row.rps:,.1f}",
            f"{row.tokens_per_s:,.0f}",
        )
    return table


def _times(rows: Sequence[Row]) -> Table:
    table = Table(title="Times, ms", title_justify="left")
    table.add_column("kind", overflow="fold")
    table.add_column("what")
    for head in ("n", "mean", *_TIMES):
        table.add_column(head, justify="right")
    for row in rows:
        for name, times in (
            ("first token", row.ttft),
            ("between tokens", row.gap),
            ("whole answer", row.total),
        ):
            if times.histogram.count:
                table.add_row(Text(for_terminal(row.name)), name, *_cells(times))
    return table


def _cells(times: Times) -> list[str]:
    shown = (milliseconds(times.at(name)) for name in ("mean", *_TIMES))
    return [f"{times.histogram.count:,}", *shown]


def _reasons(row: Row) -> Table:
    table = Table(title="Refused and failed", title_justify="left")
    table.add_column("why", overflow="fold")
    table.add_column("times", justify="right")
    for reason, count in row.reasons.items():
        table.add_row(Text(for_terminal(reason)), f"{count:,}")
    return table
