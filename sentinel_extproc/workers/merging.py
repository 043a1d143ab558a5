"""What several workers say, as one would say it. Pure.

Lists come by worker, the ones that serve first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sentinel_extproc.admin.control import Effect
from sentinel_extproc.admin.fleet_words import said_of
from sentinel_extproc.admin.inner import Shown
from sentinel_extproc.admin.page.tables import MAX_RUNNING, TOP, Picture
from sentinel_extproc.telemetry.live import Past
from sentinel_extproc.telemetry.past import samples_of, top
from sentinel_extproc.workers.shelf import Member, Roster

Status = Mapping[str, Any]

DOWN = "down"
"""The state of a worker without a process: one that keeps failing waits before it starts again."""

_ZION = {
    "lookup_breaker": ("closed", "half_open", "open"),
    "report_breaker": ("closed", "half_open", "open"),
    "own_key": ("not refused", "refused"),
}
"""The words of each, the worst last."""


def one_status(statuses: Sequence[Status]) -> dict[str, Any]:
    """``/v1/status`` of all workers: at least one."""
    first = statuses[0]
    return {
        **first,
        "uptime_seconds": max(one["uptime_seconds"] for one in statuses),
        "configuration": _configuration([one["configuration"] for one in statuses]),
        "exchanges": {
            "live": sum(one["exchanges"]["live"] for one in statuses),
            "draining": all(one["exchanges"]["draining"] for one in statuses),
        },
        "limits": {
            "store": _worst([one["limits"]["store"] for one in statuses], ("up", "away")),
            "replicas": max(one["limits"]["replicas"] for one in statuses),
            "pending_settlements": sum(one["limits"]["pending_settlements"] for one in statuses),
        },
        "identity": _added([one["identity"] for one in statuses]),
        "zion": {
            name: _worst([one["zion"][name] for one in statuses], words)
            for name, words in _ZION.items()
        },
        "overload": _overload([one["overload"] for one in statuses]),
        "outbox": _outbox([one["outbox"] for one in statuses]),
        "stream": _stream([one["stream"] for one in statuses if one["stream"] is not None]),
        "ledger": _ledger([one["ledger"] for one in statuses]),
        "reports": _added([one["reports"] for one in statuses]),
    }


def one_picture(shown: Sequence[Shown], past: Past, status: Status, *, at_s: float) -> Picture:
    """What the live page shows of all workers.

    Args:
        at_s: seconds since the epoch.
        shown: of those that answered; past: of all that ever were.
    """
    running = sorted(
        (one for each in shown for one in each.running), key=lambda one: one.started_at_ms
    )
    return Picture(
        at_s=at_s,
        samples=samples_of(past),
        users=top(past, "users", TOP),
        models=top(past, "models", TOP),
        reasons=top(past, "reasons", TOP),
        running=running[:MAX_RUNNING],
        running_in_all=sum(each.in_all for each in shown),
        status=status,
        not_stored=past.not_stored,
        faults=past.faults,
    )


def each_worker(roster: Roster, statuses: Mapping[int, Status]) -> list[dict[str, Any]]:
    """Every worker's processes, also of those that have none.

    Args:
        statuses: of those that answered, by serial number.
    """
    members = list(roster.members)
    seated = {member.seat for member in members}
    members += [Member(0, seat, 0, DOWN) for seat in range(roster.seats) if seat not in seated]
    return [
        {
            "worker": member.seat,
            "pid": member.pid or None,
            "state": member.state,
            "failing": member.seat in roster.lost,
            "failures": dict(enumerate(roster.failures)).get(member.seat, 0),
            "answers": member.serial in statuses,
            "live": statuses.get(member.serial, {}).get("exchanges", {}).get("live"),
        }
        for member in sorted(members, key=lambda m: (m.seat, m.serial))
    ]


def heads_of_all(roster: Roster, statuses: Mapping[int, Status]) -> list[dict[str, Any]]:
    """Where each worker's chain of records ends, as far as they answered."""
    return [
        {"worker": member.seat, **head}
        for member in sorted(roster.members, key=lambda m: (m.seat, m.serial))
        if member.serial in statuses
        for head in statuses[member.serial]["ledger"]["heads"]
    ]


def nobody_answers(lost: Iterable[int]) -> str:
    """Why nothing can be told."""
    failing = keeps_failing(lost)
    return f"No worker answers: {failing}." if failing else "No worker answers."


def keeps_failing(lost: Iterable[int]) -> str:
    """``worker 1 keeps failing``; empty when none does."""
    return said_of(sorted(lost), "keeps failing", "keep failing")


def one_effect(effects: Sequence[Mapping[str, Any]]) -> Effect:
    """What a control call achieved, made to every worker: at least one."""
    heard = [one["replicas"] for one in effects if one["replicas"] is not None]
    return Effect(
        everywhere=all(one["everywhere"] for one in effects),
        replicas=max(heard) if heard else None,
        streams=sum(one["streams"] for one in effects),
    )


def one_whoami(told: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Whose token it is: the worker that knows most has the word; at least one."""
    known = ("process", "shared", None)
    best = dict(min(told, key=lambda one: known.index(one["remembered"])))
    revoked = [one["revoked"] for one in told]
    best["revoked"] = True if any(revoked) else None if None in revoked else False
    return best


def not_ready(answers: Mapping[int, Mapping[str, str] | None], lost: Iterable[int]) -> str | None:
    """Why the sidecar isn't ready, if it isn't: no worker is, or one keeps failing.

    Args:
        answers: of each worker what it is not ready for; None: it doesn't answer.
    """
    if failing := keeps_failing(lost):
        return failing
    if any(answer == {} for answer in answers.values()):
        return None
    reasons = [
        f"worker {seat}: "
        + ("no answer" if said is None else ", ".join(f"{k}: {why}" for k, why in said.items()))
        for seat, said in sorted(answers.items())
    ]
    return "; ".join(reasons) or "no worker has started"


def _configuration(each: Sequence[Status]) -> dict[str, Any]:
    """They read the same files: the one that is behind, or refused them, is worth looking at."""
    worst = max(each, key=lambda one: (bool(one["faults"]), len(one["needs_restart"])))
    return {
        **worst,
        "reloads": min(one["reloads"] for one in each),
        "refused_reloads": max(one["refused_reloads"] for one in each),
    }


def _overload(each: Sequence[Status]) -> dict[str, Any]:
    return {
        "admitted_share": min(one["admitted_share"] for one in each),
        "reasons": sorted({reason for one in each for reason in one["reasons"]}),
        "turned_away": _added([one["turned_away"] for one in each]),
    }


def _outbox(each: Sequence[Status]) -> dict[str, Any]:
    known: dict[str, Any] = {}
    for one in each:
        for name, value in one.items():
            if name.endswith("_items") or name == "undelivered":
                known[name] = _both(known.get(name), value, lambda a, b: a + b)
    return {
        **known,
        "fill": max(one["fill"] for one in each),
        "degraded": any(one["degraded"] for one in each),
        "fault": next((one["fault"] for one in each if one["fault"]), None),
        "set_aside": sorted({name for one in each for name in one["set_aside"]}),
        "oldest_seconds": _greatest([one["oldest_seconds"] for one in each]),
    }


def _stream(each: Sequence[Status]) -> dict[str, Any] | None:
    if not each:
        return None
    return {
        "away": any(one["away"] for one in each),
        "entries": max(one["entries"] for one in each),
        "pending": max(one["pending"] for one in each),
        "in_hand": sum(one["in_hand"] for one in each),
        "oldest_seconds": max(one["oldest_seconds"] for one in each),
    }


def _ledger(each: Sequence[Status]) -> dict[str, Any]:
    return {
        name: _both_all([one[name] for one in each])
        for name in ("under_way", "unknown", "retained")
    }


def _added(each: Sequence[Mapping[str, int]]) -> dict[str, int]:
    names = dict.fromkeys(name for one in each for name in one)
    return {name: sum(one.get(name, 0) for one in each) for name in names}


def _worst(words: Sequence[str], order: Sequence[str]) -> str:
    return max(words, key=order.index)


def _both(one: Any, other: Any, how: Callable[[Any, Any], Any]) -> Any:
    return other if one is None else one if other is None else how(one, other)


def _both_all(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _greatest(values: Sequence[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)
