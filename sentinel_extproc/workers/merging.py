"""What several workers say, as one would say it. Pure.

Lists come by worker, the ones that serve first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sentinel_extproc.admin.control import Effect
from sentinel_extproc.admin.page.tables import MAX_RUNNING, TOP, Picture
from sentinel_extproc.telemetry.live import Heavy, Sample

Status = Mapping[str, Any]

_BREAKERS = ("closed", "half_open", "open")


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
            name: _worst([one["zion"][name] for one in statuses], _BREAKERS)
            for name in first["zion"]
        },
        "top": one_top([one["top"] for one in statuses]),
        "overload": _overload([one["overload"] for one in statuses]),
        "outbox": _outbox([one["outbox"] for one in statuses]),
        "stream": _stream([one["stream"] for one in statuses if one["stream"] is not None]),
        "ledger": _ledger([one["ledger"] for one in statuses]),
        "reports": _added([one["reports"] for one in statuses]),
    }


def one_top(each: Sequence[Mapping[str, Mapping[str, int]]]) -> dict[str, dict[str, int]]:
    """Tokens by user and by model, of all workers: the most of them first."""
    return {
        kind: dict(
            sorted(_added([one[kind] for one in each]).items(), key=lambda one: (-one[1], one[0]))[
                :TOP
            ]
        )
        for kind in each[0]
    }


def one_picture(pictures: Sequence[Picture], status: Status) -> Picture:
    """What the live page shows of all workers: at least one."""
    running = sorted(
        (one for p in pictures for one in p.running), key=lambda one: one.started_at_ms
    )
    return Picture(
        at_s=max(picture.at_s for picture in pictures),
        samples=_samples([picture.samples for picture in pictures]),
        users=_heaviest([picture.users for picture in pictures]),
        models=_heaviest([picture.models for picture in pictures]),
        reasons=_heaviest([picture.reasons for picture in pictures]),
        running=running[:MAX_RUNNING],
        running_in_all=sum(picture.running_in_all for picture in pictures),
        status=status,
        not_stored=sum(picture.not_stored for picture in pictures),
        faults=sum(picture.faults for picture in pictures),
    )


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
    if gone := sorted(lost):
        return f"worker {', '.join(map(str, gone))} keeps failing"
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
    """Chains are not added up: the first is shown, with the sums of all."""
    sums = {
        name: _both_all([one[name] for one in each])
        for name in ("under_way", "unknown", "retained")
    }
    return {**each[0], **sums}


def _samples(each: Sequence[Sequence[Sample]]) -> list[Sample]:
    """Steps are of the machine's one clock, so that the last ones are of the same moment."""
    length = min(len(samples) for samples in each)
    lasts = [samples[len(samples) - length :] for samples in each]
    return [
        Sample(
            admitted=sum(one.admitted for one in step),
            refused=sum(one.refused for one in step),
            input_tokens=sum(one.input_tokens for one in step),
            output_tokens=sum(one.output_tokens for one in step),
        )
        for step in zip(*lasts, strict=True)
    ]


def _heaviest(each: Iterable[Sequence[Heavy]]) -> list[Heavy]:
    sums: dict[str, Heavy] = {}
    for one in (heavy for ranked in each for heavy in ranked):
        before = sums.get(one.name, Heavy(one.name, 0, 0, 0))
        sums[one.name] = Heavy(
            one.name,
            before.weight + one.weight,
            before.count + one.count,
            before.excess + one.excess,
        )
    return sorted(sums.values(), key=lambda one: (-one.weight, one.name))[:TOP]


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
