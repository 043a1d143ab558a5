"""The admin port's HTTP application.

GET  /healthz          it runs; asks nobody else
GET  /readyz           it should get traffic
GET  /metrics          for Prometheus
POST /v1/revoke        control, with the admin token
POST /v1/invalidate    control
POST /v1/usage/replay  control
POST /v1/limits        control: where a user's limits stand
POST /v1/whoami        control: whose token it is
GET  /v1/status        control
GET  /                 the live page, and what belongs to it: see ``page.routes``
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from sentinel_extproc.admin.control import (
    Control,
    Effect,
    Target,
    describe,
    read_invalidate,
    read_replay,
    read_revoke,
)
from sentinel_extproc.admin.guard import Access, Guard, HostRule
from sentinel_extproc.admin.looking import Answer, LookUps, answers
from sentinel_extproc.admin.pacing import Pacing, caller
from sentinel_extproc.admin.page.routes import Page
from sentinel_extproc.admin.page.sources import Sources
from sentinel_extproc.errors import (
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    SentinelError,
    Unauthenticated,
    Unavailable,
)

log = logging.getLogger("sentinel.admin")

MAX_BODY_BYTES = 8 * 1024
"""A token, which is the longest that a control call carries, may have as much on the data path;
longer ones are revoked by their digest."""

CHECK_WITHIN_S = 1.0

Check = Callable[[], Awaitable[str | None]]
"""Why it is not ready, or None."""

Status = Callable[[], Awaitable[Mapping[str, Any]]]
"""How things stand, as JSON values."""

Exposition = Callable[[str], tuple[bytes, str]]
"""Metrics and their content type, for an Accept header."""

Replay = Callable[[Sequence[str]], Awaitable[int]]
"""Sends held usage items again; how many of the ids were held."""

_JSON_TYPE = "application/json"
_FORM_TYPE = "application/x-www-form-urlencoded"


class _Routes:
    def __init__(
        self,
        *,
        exposition: Exposition,
        checks: Mapping[str, Check],
        status: Status,
        control: Control | None,
        replay: Replay | None,
        access: Access,
        pacing: Pacing | None,
    ) -> None:
        self._exposition = exposition
        self._checks = checks
        self._status = status
        self._control = control
        self._replay = replay
        self._access = access
        self._pacing = pacing

    async def healthz(self, _: Request) -> Response:
        return _json({"status": "ok"})

    async def readyz(self, _: Request) -> Response:
        reasons = await asyncio.gather(*(_reason(check) for check in self._checks.values()))
        not_ready = {
            name: reason
            for name, reason in zip(self._checks, reasons, strict=True)
            if reason is not None
        }
        answer = {"ready": not not_ready, "checked": list(self._checks), "not_ready": not_ready}
        return _json(answer, status=503 if not_ready else 200)

    async def metrics(self, request: Request) -> Response:
        # In a thread: thousands of series take some milliseconds, which requests would feel.
        accept = request.headers.get("accept", "")
        body, content_type = await asyncio.to_thread(self._exposition, accept)
        return Response(body, headers={"content-type": content_type})

    async def status(self, request: Request) -> Response:
        self._authorize(request)
        return _json(await self._status())

    async def revoke(self, request: Request) -> Response:
        control = self._authorize(request)
        order = read_revoke(await _body(request))
        effect = await control.revoke(order.target, streams=order.streams)
        return _done("revoked", order.target, effect, order.reason)

    async def invalidate(self, request: Request) -> Response:
        control = self._authorize(request)
        order = read_invalidate(await _body(request))
        effect = await control.invalidate(order.target)
        return _done("invalidated", order.target, effect, "")

    async def replay(self, request: Request) -> Response:
        self._authorize(request)
        if self._replay is None:
            raise NotFound("Nothing can be replayed here.", code="not_available")
        ids = read_replay(await _body(request))
        replayed = await self._replay(ids)
        log.warning("usage_replayed", extra={"asked": len(ids), "replayed": replayed})
        return _json({"action": "replayed", "replayed": replayed})

    def answering(self, answer: Answer) -> Callable[[Request], Awaitable[Response]]:
        """What serves a question."""

        async def serve(request: Request) -> Response:
            self._authorize(request)
            return _json(await answer(await _body(request)))

        return serve

    def _authorize(self, request: Request) -> Control:
        headers = [value.encode("latin-1") for value in request.headers.getlist("authorization")]
        if self._pacing is None:
            self._access.check(headers)
        else:
            self._check_at_pace(self._pacing, headers, caller(request))
        return _NOTHING_TO_CONTROL if self._control is None else self._control

    def _check_at_pace(self, pacing: Pacing, headers: list[bytes], address: str) -> None:
        try:
            self._access.check(headers)
        except Unauthenticated:
            if headers:  # without a token it is no guess, but a job that was set up without one
                pacing.wrong(address)
            raise
        pacing.take(address)


class _NothingToControl:
    async def revoke(self, target: Target, *, streams: bool) -> Effect:  # noqa: ARG002
        raise NotFound("Nothing can be revoked here.", code="not_available")

    async def invalidate(self, target: Target) -> Effect:  # noqa: ARG002
        raise NotFound("Nothing can be invalidated here.", code="not_available")


_NOTHING_TO_CONTROL = _NothingToControl()


def admin_app(
    *,
    exposition: Exposition,
    checks: Mapping[str, Check],
    status: Status,
    access: Access,
    hosts: HostRule | None,
    control: Control | None = None,
    replay: Replay | None = None,
    look_ups: LookUps | None = None,
    page: Sources | None = None,
    pacing: Pacing | None = None,
    more: Sequence[Route] = (),
) -> ASGIApp:
    """The application, ready to be served.

    Args:
        checks: by name; readiness needs all of them, each within a second.
        hosts: see ``Guard``.
        control: None when there is nothing to revoke, as with identities that are not cached.
        replay: None when there is no outbox.
        look_ups: answers ``/v1/limits`` and ``/v1/whoami``.
        page: what the live page looks at; None for none.
        pacing: how often control may be called; None where it was bounded before, as for a worker.
        more: further routes.
    """
    routes = _Routes(
        exposition=exposition,
        checks=checks,
        status=status,
        control=control,
        replay=replay,
        access=access,
        pacing=pacing,
    )
    app = Starlette(
        routes=[
            Route("/healthz", routes.healthz),
            Route("/readyz", routes.readyz),
            Route("/metrics", routes.metrics),
            Route("/v1/status", routes.status),
            Route("/v1/revoke", routes.revoke, methods=["POST"]),
            Route("/v1/invalidate", routes.invalidate, methods=["POST"]),
            Route("/v1/usage/replay", routes.replay, methods=["POST"]),
            *(
                Route(f"/v1/{name}", routes.answering(answer), methods=["POST"])
                for name, answer in ({} if look_ups is None else answers(look_ups)).items()
            ),
            *([] if page is None else _page(page, access, hosts or HostRule(), pacing)),
            *more,
        ],
        exception_handlers={
            SentinelError: _refusal,
            HTTPException: _http_refusal,
            Exception: _internal,
        },
    )
    app.router.redirect_slashes = False
    return Guard(app, hosts=hosts)


def _page(sources: Sources, access: Access, hosts: HostRule, pacing: Pacing | None) -> list[Route]:
    return Page(sources, access=access, hosts=hosts, read_form=_form_body, pacing=pacing).routes()


async def _reason(check: Check) -> str | None:
    try:
        async with asyncio.timeout(CHECK_WITHIN_S):
            return await check()
    except TimeoutError:
        return "no answer in time"
    except SentinelError as error:
        return error.message
    except Exception:
        log.exception("a readiness check failed")
        return "internal fault"


async def _body(request: Request) -> bytes:
    # HTML forms can't send this type, so that a foreign page can't either.
    return await _read(request, _JSON_TYPE)


async def _form_body(request: Request) -> bytes:
    return await _read(request, _FORM_TYPE)


async def _read(request: Request, media_type: str) -> bytes:
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != media_type:
        raise InvalidRequest(f"Send the body as {media_type}.", code="unsupported_media_type")
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise PayloadTooLarge(f"The body is longer than {MAX_BODY_BYTES} bytes.")
    except ClientDisconnect:
        raise InvalidRequest("The body never came to its end.") from None
    return bytes(body)


def _done(action: str, target: Target, effect: Effect, reason: str) -> Response:
    # The trail of who was locked out, when and why. A token is named by a part of its digest.
    log.warning(action, extra=describe(target) | asdict(effect) | {"reason": reason})
    return _json({"action": action, "target": describe(target)} | asdict(effect))


def _json(answer: Mapping[str, Any], *, status: int = 200) -> Response:
    body = json.dumps(answer, separators=(",", ":")).encode()
    return Response(body, status, headers={"content-type": _JSON_TYPE})


def _error(error: SentinelError) -> Response:
    return Response(error.body(), error.status, headers=error.headers())


async def _refusal(_: Request, error: Exception) -> Response:
    if not isinstance(error, SentinelError):
        raise error
    if isinstance(error, Unavailable):
        log.error("control_failed", extra={"reason": error.message, "code": error.code})
    return _error(error)


async def _http_refusal(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException) and error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        return _error(
            MethodNotAllowed(f"{request.url.path} takes {allowed}.", headers={"allow": allowed})
        )
    return _error(NotFound("There is no such path on the admin port."))


async def _internal(_: Request, __: Exception) -> Response:
    # Starlette raises it again behind this answer, and the server logs it.
    return _error(SentinelError("Internal fault; see the log."))
