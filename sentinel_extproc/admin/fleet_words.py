"""How several workers are doing, in words: for the live page, ``top`` and ``status``. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sentinel_extproc.admin.page.cells import counted

SERVING = "serving"


@dataclass(frozen=True, slots=True)
class FleetState:
    """Attributes: word: in one breath; detail: more, may be empty."""

    word: str
    mood: Literal["ok", "warn", "bad"]
    detail: str


def fleet_state(status: Mapping[str, Any]) -> FleetState | None:
    """From ``/v1/status``; None where there is one process only."""
    workers: Sequence[Mapping[str, Any]] = status.get("workers") or ()
    if not workers:
        return None
    all_of_them = {one["worker"] for one in workers}
    serving = {one["worker"] for one in workers if one["state"] == SERVING}
    failing = {one["worker"]: one["failures"] for one in workers if one.get("failing")}
    silent = {w["worker"] for w in workers if w["state"] == SERVING and not w["answers"]}
    serve = f"{len(serving)} of {len(all_of_them)} serve"
    restarts = counted(sum(status.get("restarts", {}).values()), "restart")
    if failing:
        times = " and ".join(f"{count:,}" for _, count in sorted(failing.items()))
        word = said_of(sorted(failing), "keeps failing", "keep failing")
        return FleetState(word, "bad", f"failed {times} times in a row; {serve}; {restarts}")
    if away := sorted(all_of_them - serving):
        return FleetState(serve, "warn", f"{said_of(away, 'is', 'are')} on the way; {restarts}")
    if silent:
        word = said_of(sorted(silent), "doesn't answer", "don't answer")
        return FleetState(word, "warn", f"{serve}; {restarts}")
    return FleetState(f"all {len(all_of_them)} serve", "ok", restarts)


def said_of(workers: Sequence[int], one: str, several: str) -> str:
    """``worker 1 keeps failing``, ``workers 0, 2 keep failing``; empty of none."""
    if not workers:
        return ""
    names = ", ".join(map(str, workers))
    return f"worker {names} {one}" if len(workers) == 1 else f"workers {names} {several}"


def worker_word(worker: Mapping[str, Any]) -> str:
    """What one process does."""
    state = str(worker["state"])
    if worker.get("failing"):
        return f"keeps failing ({state})"
    if state == SERVING and not worker["answers"]:
        return "doesn't answer"
    return state
