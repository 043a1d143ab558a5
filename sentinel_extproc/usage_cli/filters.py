"""Which records are meant. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_AGO = re.compile(r"(\d{1,6})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@dataclass(frozen=True, slots=True)
class Filter:
    """What a record must be; None means any.

    Attributes:
        user: external id or email.
        model: asked for or served.
        since_ms, until_ms: when it was forwarded, milliseconds since the epoch, UTC; from the
            first on, and before the second.
        state: where it is on its way to Zion; see ``columns.Delivery``.
    """

    user: str | None = None
    model: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    provenance: str | None = None
    outcome: str | None = None
    state: str | None = None


def moment_ms(text: str, *, now: datetime) -> int:
    """A point in time, in milliseconds since the epoch.

    Args:
        text: ``2026-11-23``, ``2026-11-23T10:00`` (UTC unless it names a zone), or ``90m``,
            ``36h``, ``7d`` for so long ago.

    Raises:
        ValueError: it is none of these.
    """
    if found := _AGO.fullmatch(text):
        try:
            moment = now - timedelta(**{_UNITS[found[2]]: int(found[1])})
        except OverflowError:
            raise ValueError(f"{text!r} is before all time") from None
    else:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise ValueError(
                f"{text!r} is no time: say 2026-11-23, 2026-11-23T10:00, or 7d for so long ago"
            ) from None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1000)
