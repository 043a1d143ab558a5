"""``/v1/status`` for people. Pure.

By shape, not by name, so that nothing is left out that another version of the sidecar tells.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sentinel_extproc.admin.fleet_words import fleet_state
from sentinel_extproc.admin.page.cells import duration
from sentinel_extproc.safe_text import for_terminal
from sentinel_extproc.telemetry.logs import iso

_SHARES = frozenset({"fill", "admitted_share"})
_MOMENTS = frozenset({"last_reload"})
_ELSEWHERE = frozenset({"top"})
"""Has a command of its own."""

_IDS = frozenset({"pid", "worker"})
_LONG = 40
"""Characters of what shares its line with others."""
_STYLES = {"ok": "green", "warn": "yellow", "bad": "bold red"}


def status_view(address: str, status: Mapping[str, Any]) -> RenderableType:
    """All of it: facts by section, then a table for each list of things."""
    facts = Table("", "", "", title=Text(f"Sentinel at {address}"), show_header=False)
    lists: list[Table] = []
    if (fleet := fleet_state(status)) is not None:
        word = Text(fleet.word, style=_STYLES[fleet.mood])
        facts.add_row("workers", word, _text(fleet.detail))
        facts.add_section()
    for section, value in status.items():
        if section in _ELSEWHERE:
            continue
        for place, (name, one) in enumerate(_flat(section, value)):
            about = "" if name == section else _name(name)
            facts.add_row("" if place else _name(section), about, shown(name, one))
        facts.add_section()
        lists += _tables(section, value)
    return Group(facts, *lists)


def shown(name: str, value: object) -> Text:
    """A value as a person reads it, by what its name says of it."""
    match value:
        case None:
            text = "—"
        case bool():
            text = "yes" if value else "no"
        case int() | float() if name.endswith("_seconds"):
            text = duration(value)
        case int() | float() if name in _SHARES:
            text = f"{value:.1%}"
        case int() if name in _MOMENTS:
            text = iso(value)
        case int():
            text = str(value) if name in _IDS else f"{value:,}"
        case float():
            text = f"{value:,.3f}"
        case list() | tuple():
            texts = [shown("", one) for one in value]
            if any(len(one) > _LONG for one in texts):
                return Text("\n").join(texts)
            text = ", ".join(one.plain for one in texts) or "none"
        case dict():
            pairs = (f"{_name(str(key))} {shown(str(key), one)}" for key, one in value.items())
            text = ", ".join(pairs) or "none"
        case _:
            text = str(value)
    return _text(text)


def _flat(section: str, value: object) -> Iterator[tuple[str, object]]:
    """Names and values of a section, but for what gets a table of its own."""
    if isinstance(value, Mapping) and value:
        yield from ((str(name), one) for name, one in value.items() if not _is_things(one))
    elif not _is_things(value):
        yield section, value


def _tables(section: str, value: object) -> Iterator[Table]:
    if _is_things(value):
        yield _table(section, value)
    elif isinstance(value, Mapping):
        for name, one in value.items():
            if _is_things(one):
                yield _table(f"{section}: {name}", one)


def _is_things(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, Mapping) for v in value)


def _table(title: str, things: Any) -> Table:
    rows: Sequence[Mapping[str, object]] = things
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(title=_text(title.replace("_", " ")), title_justify="left")
    for name in names:
        table.add_column(_name(name), overflow="fold")
    for row in rows:
        table.add_row(*(shown(name, row.get(name)) for name in names))
    return table


def _name(name: str) -> Text:
    return _text(name.removesuffix("_seconds").replace("_", " "))


def _text(text: str) -> Text:
    return Text(for_terminal(text))
