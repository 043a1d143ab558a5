"""Asks the workers by their private admin sockets. Who doesn't answer is left out."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import msgspec

from sentinel_extproc.errors import (
    InvalidRequest,
    NotFound,
    SentinelError,
    Unavailable,
)
from sentinel_extproc.workers.shelf import Member, Roster, Shelf
from sentinel_extproc.workers.supervision import State

log = logging.getLogger("sentinel.workers")

TIMEOUT_S = 5.0
"""Below what the admin port gives itself for an answer; a worker that takes longer hangs."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one worker said."""

    worker: Member
    status: int
    content: bytes

    def json(self) -> dict[str, Any]:
        """An object."""
        return dict(json.loads(self.content))


class Workers:
    """The workers of this sidecar, as they are at each moment.

    Args:
        timeout_s: for one worker's answer; they are asked at once.
    """

    def __init__(self, shelf: Shelf, *, timeout_s: float = TIMEOUT_S) -> None:
        self._shelf = shelf
        self._timeout_s = timeout_s
        self._clients: dict[int, httpx.AsyncClient] = {}
        self._last: Roster | None = None

    def roster(self) -> Roster:
        """What the supervisor last said.

        Raises:
            Unavailable: nothing.
        """
        try:
            self._last = self._shelf.roster()
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            if self._last is None:
                raise Unavailable("The supervisor hasn't said anything yet.") from None
        return self._last

    async def each(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        timeout_s: float | None = None,
    ) -> list[Answer]:
        """Ask every worker that has started; the answers that came, by index, whoever leaves last
        at each.

        Raises:
            Unavailable: it isn't known who there is.
        """
        members = [m for m in self.roster().members if m.state != State.STARTING.value]
        await self._forget(members)
        within_s = self._timeout_s if timeout_s is None else timeout_s
        answers = await asyncio.gather(
            *(self._ask(m, method, path, body, within_s) for m in members)
        )
        found = [answer for answer in answers if answer is not None]
        return sorted(found, key=lambda a: (a.worker.seat, a.worker.state != State.SERVING.value))

    async def all_must(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """As ``each``, where one that fails fails all.

        Raises:
            SentinelError: what a worker said, or that one or all didn't answer.
        """
        # One that leaves takes no new exchange, and closes its own port before it ends.
        must = {m.serial for m in self.roster().members if m.state == State.SERVING.value}
        answers = await self.each(method, path, body)
        for answer in answers:
            if answer.status >= 400:
                raise refusal(answer)
        if not answers or must - {answer.worker.serial for answer in answers}:
            raise Unavailable("Not every worker answered; repeat it.", code="workers_away")
        return [answer.json() for answer in answers]

    async def any_of(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """What one of them says.

        Raises:
            SentinelError: what all said.
        """
        answers = await self.each(method, path, body)
        for answer in answers:
            if answer.status < 400:
                return answer.json()
        if answers:
            raise refusal(answers[0])
        raise Unavailable("No worker answers.", code="workers_away")

    async def aclose(self) -> None:
        """Close all connections."""
        await self._forget(())

    async def _ask(
        self,
        member: Member,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        within_s: float,
    ) -> Answer | None:
        client = self._clients.get(member.serial)
        if client is None:
            uds = self._shelf.admin_of(member.serial).removeprefix("unix:")
            # No certificates are looked at here, and loading authorities takes 20 ms.
            transport = httpx.AsyncHTTPTransport(uds=uds, verify=False)
            client = self._clients[member.serial] = httpx.AsyncClient(
                base_url="http://localhost", transport=transport, trust_env=False
            )
        try:
            async with asyncio.timeout(within_s):
                answer = await client.request(method, path, json=body)
        except (httpx.HTTPError, TimeoutError) as fault:
            log.info(
                "worker_not_answering",
                extra={"of": member.seat, "path": path, "reason": type(fault).__name__},
            )
            return None
        return Answer(member, answer.status_code, answer.content)

    async def _forget(self, members: Iterable[Member]) -> None:
        # All are taken out before the first is closed: who asks meanwhile forgets them as well.
        alive = {member.serial for member in members}
        gone = [self._clients.pop(one) for one in list(self._clients) if one not in alive]
        for client in gone:
            await client.aclose()


def refusal(answer: Answer) -> SentinelError:
    """A worker's error as our own."""
    try:
        error = answer.json()["error"]
        message, code = str(error["message"]), str(error["code"])
        param = error.get("param")
    except (ValueError, TypeError, KeyError):
        return Unavailable(f"Worker {answer.worker.seat} can't answer.", code="workers_away")
    kind: type[SentinelError] = Unavailable
    if answer.status < 500:
        kind = NotFound if answer.status == 404 else InvalidRequest
    return kind(message, code=code, param=param)
