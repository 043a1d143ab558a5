"""Tables and form fields of the pages. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from sentinel_extproc.admin.page.cells import Cell, Row
from sentinel_extproc.admin.page.html import Child, Html, el, text


@dataclass(frozen=True, slots=True)
class Column:
    """Attributes: kind: ``number`` stands to the right, ``name`` may be broken anywhere."""

    title: str
    kind: str | None = None


_TOKENS = Column("Tokens", "number")
_REQUESTS = Column("Requests", "number")
COLUMNS: Mapping[str, tuple[Column, ...]] = {
    "users": (Column("User", "name"), _TOKENS, _REQUESTS),
    "models": (Column("Model", "name"), _TOKENS, _REQUESTS),
    "reasons": (Column("Reason", "name"), Column("Refused", "number")),
    "running": (
        Column("User", "name"),
        Column("Model", "name"),
        Column("Endpoint"),
        Column("For", "number"),
        Column("Tokens out", "number"),
        Column("Exchange", "id"),
    ),
    "states": (Column("Part"), Column("State"), Column("More")),
    "workers": (
        Column("Worker"),
        Column("State"),
        Column("Failed in a row", "number"),
        Column("Running", "number"),
        Column("Process", "id"),
    ),
    "minutes": (
        Column("When"),
        Column("Admitted", "number"),
        Column("Refused", "number"),
        Column("Tokens in", "number"),
        Column("Tokens out", "number"),
    ),
    "limits": (
        Column("Limit", "name"),
        Column("Counts"),
        Column("Left", "number"),
        Column("Of", "number"),
        Column("Whole again in", "number"),
    ),
}


def table(which: str, caption: str, rows: Sequence[Row]) -> Html:
    """One of ``COLUMNS``, with its rows as they are now; the script fills it anew."""
    columns = COLUMNS[which]
    head = el(
        "tr",
        *(el("th", one.title, scope="col", class_=one.kind) for one in columns),
    )
    body = [
        el("tr", *(_cell(cell, column) for cell, column in zip(row, columns, strict=True)))
        for row in rows
    ] or [el("tr", el("td", "Nothing.", colspan=len(columns), class_="nothing"))]
    # The region can be scrolled by keyboard where it is too narrow for the table.
    return el(
        "div",
        el(
            "table",
            el("caption", caption, class_="unseen"),
            el("thead", head),
            el("tbody", *body, id=f"rows-{which}"),
        ),
        class_="scroll",
        role="region",
        tabindex=0,
        aria_label=caption,
    )


def _cell(cell: Cell, column: Column) -> Html:
    shown: Child = cell.text
    if cell.user is not None:
        shown = el(
            "a", cell.text, href=f"/?user={quote(cell.user, safe='', errors='replace')}#limits"
        )
    if cell.mood is not None:
        shown = el("span", cell.text, class_="mood", data_mood=cell.mood)
    meter = text()
    if cell.share is not None:
        meter = el(
            "meter", min=0, max=1, low=0.1, value=cell.share, aria_label="share that is left"
        )
    return el("td", meter, shown, class_=column.kind, dir="auto")


def field(field: str, label: str, **attributes: str | int | bool) -> Html:
    """A labelled line to type in."""
    attributes.setdefault("type", "text")
    box = el("input", id=f"f-{field}", name=field, **attributes)
    return el("p", el("label", label, for_=f"f-{field}"), box, class_="field")


def choice(field: str, label: str, options: Sequence[str], chosen: str) -> Html:
    """A labelled list to choose from."""
    known = options if chosen in options else (*options, chosen)
    picks = [el("option", one, value=one, selected=one == chosen) for one in known]
    box = el("select", *picks, id=f"f-{field}", name=field)
    return el("p", el("label", label, for_=f"f-{field}"), box, class_="field")


def radio(field: str, value: str, label: str, *, checked: bool = False) -> Html:
    """One of several."""
    return el(
        "label",
        el("input", type="radio", name=field, value=value, checked=checked),
        f" {label}",
    )
