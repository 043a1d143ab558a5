"""Who would have been refused: the counts as people and programs read them. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sentinel_extproc.shadow.tally import Count, Key

CUT = "answer_cut"


def report(counts: Mapping[Key, Count]) -> dict[str, Any]:
    """The report as JSON values; refusals by number, most first.

    A request whose answer would have been cut counts as one that was let through.
    """
    seen: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    for key, count in counts.items():
        if key.reason != CUT:
            seen[key.user] += count.requests
        if key.reason and key.reason != CUT:
            refused[key.user] += count.requests
    rows: list[dict[str, Any]] = [
        {
            "user": key.user,
            "reason": key.reason,
            "limit": key.limit or None,
            "status": key.status,
            "requests": count.requests,
            "share_of_users_requests": _share(count.requests, seen[key.user]),
            "first": _moment(count.first_ms),
            "last": _moment(count.last_ms),
        }
        for key, count in counts.items()
        if key.reason
    ]
    rows.sort(key=lambda row: (-row["requests"], row["user"], row["reason"], row["limit"] or ""))
    total, denied = seen.total(), refused.total()
    return {
        "requests": total,
        "would_be_refused": denied,
        "share": _share(denied, total),
        "users": sum(1 for user in seen),
        "users_refused": sum(1 for user in refused),
        "from": _moment(min(count.first_ms for count in counts.values())) if counts else None,
        "to": _moment(max(count.last_ms for count in counts.values())) if counts else None,
        "rows": rows,
    }


def as_text(told: Mapping[str, Any]) -> str:
    """The report for people."""
    if not told["requests"]:
        return "Nothing was seen yet.\n"
    lines = [
        f"{told['from']} to {told['to']}",
        f"{told['requests']} requests of {told['users']} users;",
        _sentence(told),
    ]
    if told["rows"]:
        head = ("user", "reason", "limit", "status", "requests", "of theirs", "first", "last")
        table = [head, *(_cells(row) for row in told["rows"])]
        widths = [max(len(line[column]) for line in table) for column in range(len(head))]
        lines += ["", *(_line(cells, widths) for cells in table)]
    return "\n".join(lines) + "\n"


def _sentence(told: Mapping[str, Any]) -> str:
    refused = f"{told['would_be_refused']} ({_percent(told['share'])})"
    return f"{refused} of {told['users_refused']} users would have been refused."


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        _shown(row["user"]),
        row["reason"],
        row["limit"] or "-",
        str(row["status"]),
        str(row["requests"]),
        _percent(row["share_of_users_requests"]),
        row["first"],
        row["last"],
    )


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _shown(user: str) -> str:
    # From outside: it must not move a terminal's cursor.
    return "".join(c if c.isprintable() else "?" for c in user)[:64]


def _share(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else 0.0


def _percent(share: float) -> str:
    return f"{share * 100:.1f} %"


def _moment(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
