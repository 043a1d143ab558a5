"""The HTTP of the live page.

GET  /             the page; with ?user=… the limits of a user, too
GET  /live/data    what it shows, as JSON for its script
GET  /login        asks for the admin token; POST begins a session
POST /logout       ends it
POST /act          asks whether it is meant; then revokes or invalidates
GET  /static/…     style, script and icon, under names with their hash

What changes something needs the session, the form's own secret, and an Origin that is ours:
cookies go to every port of a host, and a page of another port counts as the same site.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, replace
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from sentinel_extproc import __version__
from sentinel_extproc.admin.control import describe
from sentinel_extproc.admin.guard import Access, HostRule
from sentinel_extproc.admin.looking import DEFAULT_PATH, Question
from sentinel_extproc.admin.pacing import Pacing, caller
from sentinel_extproc.admin.page import documents
from sentinel_extproc.admin.page.assets import assets
from sentinel_extproc.admin.page.orders import read_order
from sentinel_extproc.admin.page.session import LIFETIME_S, Session, Sessions, same_origin
from sentinel_extproc.admin.page.sources import Sources
from sentinel_extproc.admin.page.tables import limit_rows, view
from sentinel_extproc.admin.throttle import GuessThrottle
from sentinel_extproc.errors import Forbidden, SentinelError, Unauthenticated
from sentinel_extproc.limits.words import span

log = logging.getLogger("sentinel.admin")

MAX_FIELDS = 16
MAX_FIELD_CHARS = 512

Body = Callable[[Request], Awaitable[bytes]]
"""Reads a bounded body."""

Answer = Callable[[Request], Awaitable[Response]]

_PAGE_HEADERS = {
    "content-type": "text/html; charset=utf-8",
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    "x-frame-options": "DENY",
    # Not no-referrer: with that, browsers say Origin: null with our own forms.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
_FOR_EVER = "public, max-age=31536000, immutable"


class Page:
    """Routes of the live page.

    Args:
        access: who may log in.
        hosts: names that browsers may call it by, on a Unix socket too: a tunnel leads there.
        read_form: reads a bounded body of a form.
        pacing: bounds of orders, which they share with the control API; None for none.
    """

    def __init__(
        self,
        sources: Sources,
        *,
        access: Access,
        hosts: HostRule,
        read_form: Body,
        pacing: Pacing | None = None,
    ) -> None:
        self._sources = sources
        self._access = access
        self._hosts = hosts
        self._read_form = read_form
        self._sessions = Sessions()
        self._throttle = GuessThrottle()
        self._pacing = pacing
        self._assets, self._files = assets()

    def routes(self) -> list[Route]:
        """For Starlette."""
        return [
            Route("/", self._named(self._page)),
            Route("/live/data", self._named(self._data)),
            Route("/login", self._named(self._login), methods=["GET", "POST"]),
            Route("/logout", self._named(self._logout), methods=["POST"]),
            Route("/act", self._named(self._act), methods=["POST"]),
            Route("/static/{file}", self._static),
        ]

    def _named(self, answer: Answer) -> Answer:
        """Only under a name of ours: a foreign one was rebound to where this can be reached."""

        async def answer_if_ours(request: Request) -> Response:
            hosts = [value.encode("latin-1") for value in request.headers.getlist("host")]
            if not self._hosts.allows(hosts):
                raise Forbidden("This is not a name of ours.", code="unknown_host")
            return await answer(request)

        return answer_if_ours

    async def _page(self, request: Request) -> Response:
        session, cookie = self._enter(request)
        if session is None:
            return self._to_login()
        try:
            picture = await self._sources.picture()
        except SentinelError as error:  # no worker answers, say
            page = documents.told("Nothing to show", error.message, self._files, problem=True)
            return _html(page, status=error.status)
        shown = documents.dashboard(
            view(picture),
            await self._look_up(request),
            csrf=self._sessions.csrf(session),
            files=self._files,
            logged_in=not self._access.without_token,
            version=__version__,
        )
        answer = _html(shown)
        if cookie is not None:
            self._set_cookie(request, answer, cookie)
        return answer

    async def _data(self, request: Request) -> Response:
        if self._session(request) is None:
            raise Unauthenticated("Log in first.", code="not_logged_in")
        body = json.dumps(view(await self._sources.picture()).as_json(), separators=(",", ":"))
        return Response(body, media_type="application/json")

    async def _login(self, request: Request) -> Response:
        if self._access.without_token:
            return RedirectResponse("/", 303)
        if request.method != "POST":
            return _html(documents.login(self._files))
        self._check_origin(request)
        client = caller(request)
        form = await self._form(request)
        try:
            self._access.check([b"Bearer " + form.get("token", "").encode()])
        except Forbidden as error:
            return _html(documents.login(self._files, problem=error.message), status=403)
        except Unauthenticated:
            if wait_s := math.ceil(self._throttle.wait_s(client)):
                often = f"Too many wrong tokens came from here. Try again in {span(wait_s)}."
                page = _html(documents.login(self._files, problem=often), status=429)
                page.headers["retry-after"] = str(wait_s)
                return page
            self._throttle.failed(client)
            log.warning("page_login_refused", extra={"client": client})
            wrong = "That is not the admin token."
            return _html(documents.login(self._files, problem=wrong), status=401)
        log.warning("page_login", extra={"client": client})
        answer = RedirectResponse("/", 303)
        self._set_cookie(request, answer, self._sessions.begin())
        return answer

    async def _logout(self, request: Request) -> Response:
        session, _ = await self._ours(request)
        self._sessions.end(session)
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(_cookie_name(request), path="/", secure=_secure(request))
        return answer

    async def _act(self, request: Request) -> Response:
        session, form = await self._ours(request)
        try:
            if self._pacing is not None:
                self._pacing.take(caller(request))
            return await self._order(session, form)
        except SentinelError as error:
            log.log(
                logging.ERROR if error.status >= 500 else logging.INFO,
                "control_failed",
                extra={"reason": error.message, "code": error.code},
            )
            page = documents.told("Not done", error.message, self._files, problem=True)
            answer = _html(page, status=error.status)
            if (again := error.headers().get("retry-after")) is not None:
                answer.headers["retry-after"] = again
            return answer

    async def _order(self, session: Session, form: Mapping[str, str]) -> Response:
        order = read_order(form)
        if not order.confirmed:
            kept = ("action", "kind", "target", "reason", "streams")
            return _html(
                documents.confirmation(
                    order.question,
                    effect=order.prospect,
                    fields={field: form[field] for field in kept if field in form},
                    csrf=self._sessions.csrf(session),
                    files=self._files,
                    typed=order.by_typing,
                )
            )
        control = self._sources.control
        if order.revokes:
            effect = await control.revoke(order.target, streams=order.streams)
        else:
            effect = await control.invalidate(order.target)
        noted = describe(order.target) | asdict(effect) | {"reason": order.reason}
        log.warning(order.done, extra=noted)
        return _html(documents.told("Done", order.told(effect), self._files))

    async def _static(self, request: Request) -> Response:
        found = self._assets.get(request.path_params["file"])
        if found is None:
            return Response(status_code=404)
        content, media_type = found
        return Response(content, media_type=media_type, headers={"cache-control": _FOR_EVER})

    async def _look_up(self, request: Request) -> documents.LookUp:
        given = {key: value[:MAX_FIELD_CHARS] for key, value in request.query_params.items()}
        user = given.get("user", "").strip()
        asked = documents.LookUp(
            user=user,
            model=given.get("model", "").strip(),
            path=given.get("path", "").strip() or DEFAULT_PATH,
            plan=given.get("plan", "").strip(),
        )
        if not user:
            return asked
        try:
            told = await self._sources.look_ups.limits(
                Question(user, asked.path, asked.model, asked.plan or None)
            )
        except SentinelError as error:
            return replace(asked, problem=error.message)
        return replace(asked, rows=limit_rows(told["limits"]))

    # Who asks

    def _session(self, request: Request) -> Session | None:
        return self._sessions.read(request.cookies.get(_cookie_name(request)))

    def _enter(self, request: Request) -> tuple[Session | None, str | None]:
        """The session; where no token is needed a new one with its cookie, for the forms' sake."""
        session = self._session(request)
        if session is not None or not self._access.without_token:
            return session, None
        cookie = self._sessions.begin()
        return self._sessions.read(cookie), cookie

    async def _ours(self, request: Request) -> tuple[Session, Mapping[str, str]]:
        """The session and the form, if it is one of this session's pages that sends it.

        Raises:
            Unauthenticated: nobody is logged in.
            Forbidden: another page sends it.
        """
        self._check_origin(request)
        session = self._session(request)
        if session is None:
            raise Unauthenticated("Log in first.", code="not_logged_in")
        form = await self._form(request)
        if not self._sessions.csrf_matches(session, form.get("csrf", "")):
            raise Forbidden("This form is not of this session; load the page again.", code="csrf")
        return session, form

    def _check_origin(self, request: Request) -> None:
        headers = request.headers
        if not same_origin(origin=headers.get("origin"), host=headers.get("host")):
            raise Forbidden("Forms are taken from this page only.", code="foreign_origin")

    async def _form(self, request: Request) -> Mapping[str, str]:
        body = await self._read_form(request)
        pairs = parse_qsl(
            body.decode("latin-1"), keep_blank_values=True, errors="replace", max_num_fields=None
        )
        return {key: value[:MAX_FIELD_CHARS] for key, value in pairs[:MAX_FIELDS]}

    def _set_cookie(self, request: Request, answer: Response, cookie: str) -> None:
        answer.set_cookie(
            _cookie_name(request),
            cookie,
            max_age=LIFETIME_S,
            path="/",
            secure=_secure(request),
            httponly=True,
            samesite="strict",
        )

    def _to_login(self) -> Response:
        answer = RedirectResponse("/login", 303)
        answer.headers["content-security-policy"] = _PAGE_HEADERS["content-security-policy"]
        return answer


def _secure(request: Request) -> bool:
    return request.url.scheme == "https"


def _cookie_name(request: Request) -> str:
    # The prefix has browsers refuse it from a neighbour under the same domain.
    return "__Host-sentinel" if _secure(request) else "sentinel_session"


def _html(page: bytes, *, status: int = 200) -> Response:
    return Response(page, status, headers=_PAGE_HEADERS)
