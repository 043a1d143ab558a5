"""What the live page shows, as tables, tiles and series of text and numbers. Pure.

All formatting is done here, for the first answer and for every update alike: the script in the
browser puts texts where they belong and draws lines.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sentinel_extproc.admin.fleet_words import SERVING, fleet_state, worker_word
from sentinel_extproc.admin.page.cells import Cell, Mood, Row, counted, duration, name, number
from sentinel_extproc.exchange.running import Running
from sentinel_extproc.telemetry.live import STEP_S, Heavy, Sample

TOP = 10
MAX_RUNNING = 50

_CHARS_PER_TOKEN = 4
_PER_MINUTE = 60 // STEP_S

Status = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Everything that the page shows at one moment.

    Attributes:
        at_s: seconds since the epoch.
        samples: the last one is still filling.
        running: the oldest ones, of ``running_in_all``.
        status: as ``/v1/status`` gives it.
        not_stored, faults: since the start.
    """

    at_s: float
    samples: Sequence[Sample]
    users: Sequence[Heavy]
    models: Sequence[Heavy]
    reasons: Sequence[Heavy]
    running: Sequence[Running]
    running_in_all: int
    status: Status
    not_stored: int
    faults: int


@dataclass(frozen=True, slots=True)
class View:
    """A picture in texts.

    Attributes:
        alert: what is wrong, in one line; empty when nothing is. ``mood``: how bad it is.
        series: per second, oldest first, one number for every ``step_s`` seconds.
    """

    at: str
    alert: str
    mood: Mood
    tiles: Mapping[str, str]
    tables: Mapping[str, tuple[Row, ...]]
    series: Mapping[str, list[float]]
    step_s: int = STEP_S

    def as_json(self) -> dict[str, Any]:
        """For the script."""
        return {
            "at": self.at,
            "alert": self.alert,
            "mood": self.mood,
            "tiles": dict(self.tiles),
            "tables": {
                table: [[cell.as_json() for cell in row] for row in rows]
                for table, rows in self.tables.items()
            },
            "series": dict(self.series),
            "step_s": self.step_s,
        }


def view(picture: Picture) -> View:
    """All of it."""
    whole = list(picture.samples[:-1])
    states = _states(picture)
    minute = whole[-_PER_MINUTE:]
    shown = len(picture.running)
    wrong = [row for row in states if row[1].mood in ("warn", "bad")]
    return View(
        at=time.strftime("%H:%M:%S UTC", time.gmtime(picture.at_s)),
        alert=" ".join(f"{row[0].text}: {row[1].text}." for row in wrong),
        mood="bad" if any(row[1].mood == "bad" for row in wrong) else "warn" if wrong else "ok",
        tiles={
            "admitted": f"{sum(one.admitted for one in minute):,}",
            "refused": f"{sum(one.refused for one in minute):,}",
            "tokens": f"{sum(one.input_tokens + one.output_tokens for one in minute):,}",
            "running": f"{picture.running_in_all:,}",
            "running-shown": f"the {shown} oldest of {picture.running_in_all:,}"
            if shown < picture.running_in_all
            else "all of them",
        },
        tables={
            "users": _heavy(picture.users, user=True),
            "models": _heavy(picture.models),
            "reasons": tuple((name(one.name), number(one.weight)) for one in picture.reasons),
            "running": tuple(_running(one, picture.at_s) for one in picture.running),
            "states": states,
            "workers": tuple(_worker(one) for one in picture.status.get("workers", ())),
            "minutes": _minutes(whole),
        },
        series={
            field: [round(getattr(one, field) / STEP_S, 3) for one in whole]
            for field in ("admitted", "refused", "input_tokens", "output_tokens")
        },
    )


def limit_rows(limits: Sequence[Mapping[str, Any]]) -> tuple[Row, ...]:
    """Where a user's limits stand, as ``LookUps.limits`` tells it."""
    return tuple(_limit(limit) for limit in limits)


def _limit(limit: Mapping[str, Any]) -> Row:
    remaining, most, reset_s = limit["remaining"], limit["limit"], limit["reset_seconds"]
    share = min(1.0, remaining / most) if most > 0 else 0.0
    unknown = "they end" if limit["at_once"] else "never"
    return (
        name(limit["name"] + (" (shadow)" if limit["shadow"] else "")),
        Cell(limit["unit"].replace("_", " ")),
        Cell(number(remaining).text, share=round(share, 3)),
        Cell(f"{number(most).text} at once") if limit["at_once"] else number(most),
        Cell(duration(reset_s) if reset_s is not None else unknown),
    )


def _heavy(ranked: Sequence[Heavy], *, user: bool = False) -> tuple[Row, ...]:
    # One of the weight is for each request itself.
    return tuple(
        (
            name(one.name, user=user),
            Cell(f"{'≤ ' if one.excess else ''}{max(0, one.weight - one.count):,}"),
            Cell(f"{'≥ ' if one.excess else ''}{one.count:,}"),
        )
        for one in ranked
    )


def _running(one: Running, at_s: float) -> Row:
    return (
        name(one.user, user=True),
        name(one.model),
        name(one.endpoint),
        Cell(duration(int(at_s - one.started_at_ms / 1000))),
        Cell(f"≈ {one.generated_chars // _CHARS_PER_TOKEN:,}" if one.admitted else "not yet"),
        Cell(one.id),
    )


def _worker(worker: Mapping[str, Any]) -> Row:
    word = worker_word(worker)
    mood: Mood = "bad" if worker["failing"] else "ok" if word == SERVING else "warn"
    return (
        number(worker["worker"]),
        Cell(word, mood=mood),
        number(worker["failures"]),
        number(worker["live"]),
        Cell("–" if worker["pid"] is None else str(worker["pid"])),
    )


def _minutes(samples: Sequence[Sample]) -> tuple[Row, ...]:
    """The charts in figures, the latest minute first."""
    rows: list[Row] = []
    for ago in range(len(samples) // _PER_MINUTE):
        end = len(samples) - ago * _PER_MINUTE
        part = samples[end - _PER_MINUTE : end]
        rows.append(
            (
                Cell("the last minute" if ago == 0 else f"{ago} min before"),
                number(sum(one.admitted for one in part)),
                number(sum(one.refused for one in part)),
                number(sum(one.input_tokens for one in part)),
                number(sum(one.output_tokens for one in part)),
            )
        )
    return tuple(rows)


def _states(picture: Picture) -> tuple[Row, ...]:
    status = picture.status
    exchanges, limits, zion = status["exchanges"], status["limits"], status["zion"]
    draining = bool(exchanges["draining"])
    away = limits["store"] == "away"
    fault_free = not picture.not_stored and not picture.faults
    fleet = fleet_state(status)
    return (
        *(() if fleet is None else (_state("Workers", fleet.word, fleet.mood, fleet.detail),)),
        _state("Serving", "draining" if draining else "yes", "warn" if draining else "ok", ""),
        _state(
            "Redis, for limits",
            "away" if away else "up",
            "bad" if away else "ok",
            f"{counted(limits['replicas'], 'replica')}; "
            f"{counted(limits['pending_settlements'], 'settlement')} to apply",
        ),
        *(
            (
                _state(
                    "Zion, our key", "refused", "bad", "zion.api_key isn't good: restart with one"
                ),
            )
            if zion["own_key"] == "refused"
            else ()
        ),
        _breaker("Zion, look-ups", str(zion["lookup_breaker"])),
        _breaker("Zion, reports", str(zion["report_breaker"])),
        _outbox(status["outbox"], status["ledger"]),
        _stream(status["stream"]),
        _state(
            "Our own faults",
            "no faults" if fault_free else "faults",
            "ok" if fault_free else "warn",
            f"{counted(picture.faults, 'bug')} and {counted(picture.not_stored, 'late record')} "
            "since the start",
        ),
    )


def _state(what: str, word: str, mood: Mood, detail: str) -> Row:
    return Cell(what), Cell(word, mood=mood), Cell(detail)


def breaker_word(state: str) -> tuple[str, Mood]:
    """What a breaker's state says of who is behind it."""
    words: dict[str, tuple[str, Mood]] = {
        "closed": ("up", "ok"),
        "half_open": ("being tried again", "warn"),
    }
    return words.get(state, ("away", "bad"))


def _breaker(what: str, state: str) -> Row:
    word, mood = breaker_word(state)
    return _state(what, word, mood, f"breaker {state.replace('_', ' ')}")


def _outbox(outbox: Mapping[str, Any], ledger: Mapping[str, Any]) -> Row:
    dead = outbox.get("dead_items") or 0
    word = f"{outbox['fill']:.0%} full"
    mood: Mood = "ok"
    if outbox["fault"]:
        word, mood = "broken", "bad"
    elif outbox["degraded"]:
        mood = "warn"
    elif dead:
        word, mood = "dead letters", "warn"
    detail = "nothing waits; "
    if outbox["undelivered"] != 0:
        waiting, oldest = number(outbox["undelivered"]).text, duration(outbox["oldest_seconds"])
        detail = f"{waiting} wait, the oldest for {oldest}; "
    detail += f"{counted(dead, 'dead letter')}; {number(ledger['unknown']).text} of unknown end"
    if outbox["fault"]:
        detail = f"{name(str(outbox['fault'])).text}; {detail}"
    return _state("Outbox", word, mood, detail)


def _stream(stream: Mapping[str, Any] | None) -> Row:
    if stream is None:
        return _state("Stream to Zion", "not used", "ok", "reports go straight to Zion")
    detail = "empty"
    if stream["entries"]:
        detail = (
            f"{counted(stream['entries'], 'entry', 'entries')}, {stream['pending']:,} taken; "
            f"the oldest has been there for {duration(stream['oldest_seconds'])}"
        )
    if stream["away"]:
        return _state("Stream to Zion", "away", "warn", f"reports go straight to Zion; {detail}")
    return _state("Stream to Zion", "up", "ok", detail)
