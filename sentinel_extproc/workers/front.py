"""The admin port of a sidecar with several workers: asks them, and answers as one.

It is a process of its own, so that nothing that is asked here takes time from a worker but the
worker's own answer, and that no fault here can touch the supervisor.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from sentinel_extproc import __version__
from sentinel_extproc.admin.assembly import serve_admin
from sentinel_extproc.admin.control import Control, Effect, Everybody, Target, Token, User
from sentinel_extproc.admin.inner import METRICS, PICTURE, Shown, read_shown
from sentinel_extproc.admin.looking import LookUps, Question
from sentinel_extproc.admin.page.tables import TOP, Picture
from sentinel_extproc.admin.routes import admin_app
from sentinel_extproc.config.settings import Settings
from sentinel_extproc.errors import Unavailable
from sentinel_extproc.telemetry.across import Across, Collected, Family, merged, unpack
from sentinel_extproc.telemetry.live import Past, tokens_by_name
from sentinel_extproc.telemetry.past import together, top
from sentinel_extproc.telemetry.prometheus import written
from sentinel_extproc.workers.asking import Workers
from sentinel_extproc.workers.gathering import Gathering
from sentinel_extproc.workers.lifeline import Lifeline
from sentinel_extproc.workers.merging import (
    each_worker,
    heads_of_all,
    nobody_answers,
    not_ready,
    one_effect,
    one_picture,
    one_status,
    one_whoami,
)
from sentinel_extproc.workers.shelf import Roster, Shelf
from sentinel_extproc.workers.supervision import State

log = logging.getLogger("sentinel.workers")

TIDY_EVERY_S = 30.0
"""About as often as a worker that keeps failing is started again."""

_READY_WITHIN_S = 0.7
"""Below what the admin port gives a check: one that hangs must not speak for the others."""


async def serve_front(settings: Settings, shelf: Shelf, lifeline: Lifeline) -> None:
    """Serve it until SIGTERM, or until the supervisor is gone.

    Raises:
        ServerError, OSError, ValueError: it can't be served as configured.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    # Ctrl-C reaches the whole group; this port stays until the last worker has ended.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    async with AsyncExitStack() as stack:
        lifeline.hold(lambda _: stop.set())
        stack.push_async_callback(lifeline.let_go)
        workers = Workers(shelf)
        stack.push_async_callback(workers.aclose)
        fleet = Fleet(workers, shelf)

        def exposition(accept: str) -> tuple[bytes, str]:
            # It is called on a thread, where putting everything together may take its time.
            asked = asyncio.run_coroutine_threadsafe(fleet.families(), loop)
            return written(Collected(merged(asked.result())), accept)

        make = partial(
            admin_app,
            exposition=exposition,
            checks={"workers": fleet.not_ready},
            status=fleet.status,
            control=fleet.control,
            replay=fleet.replay,
            look_ups=fleet.look_ups,
            page=fleet,
        )
        await serve_admin(settings.admin, make, stack)
        tidying = asyncio.create_task(_tidy(fleet), name="tidy")
        stack.push_async_callback(_end, tidying)
        lifeline.ready()
        await stop.wait()


async def _tidy(fleet: Fleet) -> None:
    while True:
        await asyncio.sleep(TIDY_EVERY_S)
        try:
            await fleet.tidy()
        except Exception:
            log.exception("what ended processes left can't be put together")


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What there is at one moment: answers of those workers that gave one, by serial number, and
    what all that ever were remember."""

    roster: Roster
    statuses: Mapping[int, Mapping[str, Any]]
    shown: Mapping[int, Shown]
    past: Past


class Fleet:
    """The workers as one: ``Sources`` of the live page, and what else the admin port is made of."""

    def __init__(self, workers: Workers, shelf: Shelf) -> None:
        self._workers = workers
        self._shelf = shelf
        self._counts = Gathering(shelf.counts, workers.roster)
        self._pasts = Gathering(shelf.pasts, workers.roster)

    @property
    def control(self) -> Control:
        """Does it in every worker: what one has cached, no other can forget."""
        return _Control(self._workers)

    @property
    def look_ups(self) -> LookUps:
        """Limits are the same whoever is asked; what is remembered of a token is not."""
        return _LookUps(self._workers)

    async def families(self) -> list[list[Family]]:
        """Metrics, by process: of those that ended, of those that live, and of the supervisor."""

        async def ask() -> dict[int, list[Family]]:
            answers = await self._workers.each("GET", METRICS)
            return {a.worker.serial: unpack(a.content) for a in answers if a.status == 200}

        found = await self._counts.ask(ask)
        return [*found, supervisor_families(self._workers.roster())]

    async def tidy(self) -> None:
        """Have no files left of processes that ended, though nobody asks."""
        await self._counts.tidy()
        await self._pasts.tidy()
        self._shelf.tidy(self._workers.roster())

    async def not_ready(self) -> str | None:
        """Why no requests should come."""
        roster = self._workers.roster()
        if roster.stopping:
            return "draining"
        said: dict[int, Mapping[str, str] | None] = dict.fromkeys(range(roster.seats))
        for answer in await self._workers.each("GET", "/readyz", timeout_s=_READY_WITHIN_S):
            if answer.worker.state == State.SERVING.value:
                said[answer.worker.seat] = answer.json()["not_ready"]
        return not_ready(said, roster.lost)

    async def status(self) -> dict[str, Any]:
        """As ``/v1/status``, and each worker."""
        return self._status(await self._see())

    async def picture(self) -> Picture:
        """See ``Sources``."""
        seen = await self._see()
        shown = list(seen.shown.values())
        return one_picture(shown, seen.past, self._status(seen), at_s=time.time())

    async def _see(self) -> _Seen:
        shown: dict[int, Shown] = {}

        async def ask() -> dict[int, Past]:
            for answer in await self._workers.each("GET", PICTURE):
                if answer.status == 200:
                    shown[answer.worker.serial] = read_shown(answer.content)
            return {serial: one.past for serial, one in shown.items()}

        pasts, answers = await asyncio.gather(
            self._pasts.ask(ask), self._workers.each("GET", "/v1/status")
        )
        return _Seen(
            roster=self._workers.roster(),
            statuses={a.worker.serial: a.json() for a in answers if a.status == 200},
            shown=shown,
            past=together(pasts),
        )

    def _status(self, seen: _Seen) -> dict[str, Any]:
        roster = seen.roster
        if not seen.statuses:
            raise Unavailable(nobody_answers(roster.lost), code="workers_away")
        told = one_status(list(seen.statuses.values()))
        told["exchanges"]["draining"] = roster.stopping
        told["top"] = {
            "users": tokens_by_name(top(seen.past, "users", TOP)),
            "models": tokens_by_name(top(seen.past, "models", TOP)),
        }
        told["ledger"]["heads"] = heads_of_all(roster, seen.statuses)
        return {
            **told,
            "version": __version__,
            "workers": each_worker(roster, seen.statuses),
            "restarts": roster.restarts,
        }

    async def replay(self, item_ids: Sequence[str]) -> int:
        """An item is in one worker's outbox, nobody knows whose."""
        body = {"ids": list(item_ids)}
        done = await self._workers.all_must("POST", "/v1/usage/replay", body)
        return sum(one["replayed"] for one in done)


class _Control:
    def __init__(self, workers: Workers) -> None:
        self._workers = workers

    async def revoke(self, target: Target, *, streams: bool) -> Effect:
        """See ``Control``."""
        body = {**_named(target, owner=True), "streams": streams}
        return one_effect(await self._workers.all_must("POST", "/v1/revoke", body))

    async def invalidate(self, target: Target) -> Effect:
        """See ``Control``."""
        body = _named(target, owner=False)
        return one_effect(await self._workers.all_must("POST", "/v1/invalidate", body))


class _LookUps:
    def __init__(self, workers: Workers) -> None:
        self._workers = workers

    async def limits(self, question: Question) -> dict[str, Any]:
        """See ``LookUps``."""
        body: dict[str, Any] = {
            "user": question.user,
            "path": question.path,
            "model": question.model,
        }
        if question.plan is not None:
            body["plan"] = question.plan
        return await self._workers.any_of("POST", "/v1/limits", body)

    async def whoami(self, token: Token) -> dict[str, Any]:
        """See ``LookUps``."""
        body = _named(token, owner=False)
        return one_whoami(await self._workers.all_must("POST", "/v1/whoami", body))


_WHY = ("died", "replaced", "replacement_failed", "silent", "slow_end", "slow_start")
"""Of a restart. What never was is told as 0: Prometheus misses the first of a new series."""


def supervisor_families(roster: Roster) -> list[Family]:
    """What the supervisor counts."""
    states = dict.fromkeys((state.value for state in State), 0.0)
    for member in roster.members:
        states[member.state] += 1
    return [
        Family(
            "sentinel_workers",
            "Worker processes, by what they do.",
            "gauge",
            Across.SUM,
            tuple(("sentinel_workers", (("state", s),), n) for s, n in states.items()),
        ),
        Family(
            "sentinel_workers_wanted",
            "Workers that there should be.",
            "gauge",
            Across.SUM,
            (("sentinel_workers_wanted", (), float(roster.seats)),),
        ),
        Family(
            "sentinel_workers_failing",
            "Workers that keep failing, and are tried on.",
            "gauge",
            Across.SUM,
            (("sentinel_workers_failing", (), float(len(roster.lost))),),
        ),
        Family(
            "sentinel_worker_restarts",
            "Workers that were followed by another, by why.",
            "counter",
            Across.SUM,
            tuple(
                ("sentinel_worker_restarts_total", (("why", why),), float(count))
                for why, count in sorted((dict.fromkeys(_WHY, 0) | roster.restarts).items())
            ),
        ),
    ]


def _named(target: Target, *, owner: bool) -> dict[str, Any]:
    """A target as a call names it."""
    match target:
        case Token():
            named: dict[str, Any] = {"token_sha256": target.sha256.hex()}
            if target.signed is not None:
                named["signed_sha256"] = target.signed.hex()
            if owner and target.owner is not None:
                named["owner"] = target.owner
            return named
        case User(external_id):
            return {"user": external_id}
        case Everybody():
            return {"everybody": True}
