"""Numbers, times and names as a person reads them. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from sentinel_extproc.safe_text import for_terminal

Mood = Literal["ok", "warn", "bad"]

MAX_CHARS = 80


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: safe to show: nothing in it is invisible or turns the direction of writing. It is
            not escaped.
        mood: for states; the text says it too, so colour is never all there is.
        user: an external id whose limits the cell links to, as it really is.
        share: from 0 to 1, to be drawn as a meter beside the text.
    """

    text: str
    mood: Mood | None = None
    user: str | None = None
    share: float | None = None

    def as_json(self) -> dict[str, Any]:
        """For the script; absent what is None."""
        said = {"text": self.text, "mood": self.mood, "user": self.user, "share": self.share}
        return {name: value for name, value in said.items() if value is not None}


Row = tuple[Cell, ...]


def name(value: str | None, *, user: bool = False) -> Cell:
    """What somebody outside chose: shortened, and with what can't be seen spelt out."""
    if value is None:
        return Cell("–")
    shown = value if len(value) <= MAX_CHARS else value[: MAX_CHARS - 1] + "…"
    return Cell(for_terminal(shown), user=value if user else None)


def number(value: float | None) -> Cell:
    """With thousands apart; – when it isn't known."""
    if value is None:
        return Cell("–")
    return Cell(f"{value:,}" if isinstance(value, int) else f"{value:,.6g}")


def duration(seconds: float | None) -> str:
    """``45 s``, ``3 min``, ``5 h``, ``12 d``; two units where the first is small."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    whole = max(0, math.ceil(seconds))
    if whole < 120:
        return f"{whole} s"
    if whole < 2 * 3600:
        return f"{whole // 60} min {whole % 60} s" if whole < 600 else f"{whole // 60} min"
    if whole < 2 * 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} d"


def counted(count: int, one: str, several: str | None = None) -> str:
    """``1 replica``, ``2 replicas``."""
    return f"{count:,} {one if count == 1 else several or one + 's'}"
