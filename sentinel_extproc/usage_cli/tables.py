"""The ledger as tables for people. Whatever users chose is shown as text, never as markup."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sentinel_extproc.safe_text import for_terminal
from sentinel_extproc.usage_cli.columns import Entry, iso, money

BLOCK = 500
"""Rows of one table: its columns' widths need all of them in memory."""

_RIGHT = frozenset({"no.", "requests", "input", "output", "cost", "records", "refusals"})

_FOLDED = frozenset({"user", "model", "reason", "about", "detail"})
"""Others are of bounded length, and read badly in pieces."""

Cells = Sequence[str | int | None]


def print_rows(console: Console, headings: Sequence[str], rows: Iterable[Cells]) -> int:
    """Print any number of rows, in tables of ``BLOCK``; how many there were."""
    count = 0
    for block in _blocks(rows):
        table = Table()
        for heading in headings:
            right = heading in _RIGHT
            table.add_column(
                heading,
                justify="right" if right else "left",
                no_wrap=heading not in _FOLDED,
                overflow="fold",
            )
        for row in block:
            table.add_row(*map(_cell, row))
        console.print(table)
        count += len(block)
    return count


def print_facts(console: Console, facts: Iterable[tuple[str, str | int | None]]) -> None:
    """Print names and values."""
    table = Table(show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(Text(name), _cell(value))
    console.print(table)


RECORD_HEADINGS = (
    "no.", "time (UTC)", "user", "model", "input", "output", "cost", "state", "numbers", "ended",
)  # fmt: skip


def record_cells(entry: Entry) -> Cells:
    """A record's row."""
    record = entry.record
    cost = money(record.cost_nanos)
    return (
        entry.seq,
        iso(record.occurred_at_ms)[:19].replace("T", " "),
        record.external_id,
        record.model_served or record.model_requested,
        record.usage.input_tokens,
        record.usage.output_tokens,
        None if cost is None else f"{cost} {record.currency or ''}".strip(),
        entry.state.value,
        record.provenance.value,
        record.outcome.value,
    )


def _cell(value: str | int | None) -> Text:
    match value:
        case None:
            return Text("—")
        case int():
            return Text(f"{value:,}")
        case _:
            return Text(for_terminal(value))


def _blocks(rows: Iterable[Cells]) -> Iterator[list[Cells]]:
    remaining = iter(rows)
    while block := list(islice(remaining, BLOCK)):
        yield block
