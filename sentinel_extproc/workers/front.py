"""The admin port of a sidecar with several workers: asks them, and answers as one.

It is a process of its own, so that nothing that is asked here takes time from a worker but the
worker's own answer, and that no fault here can touch the supervisor.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import msgspec

from sentinel_extproc import __version__
from sentinel_extproc.admin.assembly import serve_admin
from sentinel_extproc.admin.control import Control, Effect, Everybody, Target, Token, User
from sentinel_extproc.admin.inner import METRICS, PICTURE
from sentinel_extproc.admin.looking import LookUps, Question
from sentinel_extproc.admin.page.tables import Picture
from sentinel_extproc.admin.routes import admin_app
from sentinel_extproc.config.settings import Settings
from sentinel_extproc.errors import Unavailable
from sentinel_extproc.telemetry.across import Across, Collected, Family, further, merged, unpack
from sentinel_extproc.telemetry.prometheus import written
from sentinel_extproc.workers.asking import Workers
from sentinel_extproc.workers.lifeline import Lifeline
from sentinel_extproc.workers.merging import (
    not_ready,
    one_effect,
    one_picture,
    one_status,
    one_whoami,
)
from sentinel_extproc.workers.shelf import Roster, Shelf
from sentinel_extproc.workers.supervision import State

log = logging.getLogger("sentinel.workers")

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
        lifeline.ready()
        await stop.wait()


class Fleet:
    """The workers as one: ``Sources`` of the live page, and what else the admin port is made of."""

    def __init__(self, workers: Workers, shelf: Shelf) -> None:
        self._workers = workers
        self._shelf = shelf
        self._gathering = asyncio.Lock()
        self._counted: dict[int, list[Family]] = {}

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
        # One at a time: a process that ends meanwhile would be counted as both.
        async with self._gathering:
            return await self._families()

    async def _families(self) -> list[list[Family]]:
        roster = self._workers.roster()
        answers = {
            answer.worker.serial: answer
            for answer in await self._workers.each("GET", METRICS)
            if answer.status == 200
        }
        alive = {member.serial for member in roster.members}
        for serial in self._counted.keys() - alive:
            # One that was killed: what it told last may be more than what it had written.
            self._shelf.keep_counts(serial, self._counted.pop(serial))
        found = [await asyncio.to_thread(self._shelf.retired, roster)]
        for serial in sorted(alive):
            if (answer := answers.get(serial)) is not None:
                self._counted[serial] = unpack(answer.content)
            # One that hangs: what it last told or wrote keeps the sums from falling.
            told, wrote = self._counted.get(serial, []), self._shelf.counts_of(serial)
            found.append(told if answer is not None else further(told, wrote))
        return [*found, supervisor_families(roster)]

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
        roster = self._workers.roster()
        answers = await self._workers.each("GET", "/v1/status")
        statuses = {a.worker.serial: a.json() for a in answers if a.status == 200}
        if not statuses:
            raise Unavailable("No worker answers.", code="workers_away")
        each = [
            {
                "worker": member.seat,
                "pid": member.pid,
                "state": member.state,
                "answers": member.serial in statuses,
                "live": statuses.get(member.serial, {}).get("exchanges", {}).get("live"),
            }
            for member in sorted(roster.members, key=lambda m: (m.seat, m.serial))
        ]
        told = one_status(list(statuses.values()))
        told["exchanges"]["draining"] = roster.stopping
        return {**told, "version": __version__, "workers": each, "restarts": roster.restarts}

    async def picture(self) -> Picture:
        """See ``Sources``."""
        answers = await self._workers.each("GET", PICTURE)
        pictures = [
            msgspec.json.decode(answer.content, type=Picture)
            for answer in answers
            if answer.status == 200
        ]
        if not pictures:
            raise Unavailable("No worker answers.", code="workers_away")
        return one_picture(pictures, await self.status())

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
