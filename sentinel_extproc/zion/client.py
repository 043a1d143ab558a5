"""The HTTP client for Zion: the only part of this package that does I/O.

Every call has one deadline over all its phases and a cap on its answer. Answers are asked for
uncompressed, so the cap on what arrives is also the cap on what is decoded. Redirects are not
followed and proxy settings of the environment not used: our key and users' tokens go to the
configured host and nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import httpx

from sentinel_extproc import __version__
from sentinel_extproc.errors import Forbidden, SentinelError, Unauthenticated
from sentinel_extproc.zion import batches, wire
from sentinel_extproc.zion.answers import (
    FAULTS,
    BatchRefusedError,
    Call,
    Reason,
    ZionUnavailable,
    failure,
    own_key_refused,
)
from sentinel_extproc.zion.batches import RowResult, UsageIncrement
from sentinel_extproc.zion.breaker import Breaker, Permit, Refusal, State
from sentinel_extproc.zion.breaker_board import BreakerBoard
from sentinel_extproc.zion.budget import RetryBudget
from sentinel_extproc.zion.shared_breaker import SharedBreaker
from sentinel_extproc.zion.tls import client_context
from sentinel_extproc.zion.wire import Dialect, Profile, UserLimits

MAX_ANSWER_BYTES = 64 * 1024
"""A profile is some 300 bytes and a user's limits a few kilobytes."""

MAX_BATCH_ANSWER_BYTES = 2 * 1024 * 1024
"""1000 rows of about 400 bytes, five times over."""

KEEPALIVE_S = 4.0
"""Shorter than the 5 s after which Node's servers close idle connections, so that a call is not
sent into a connection that is just being closed."""

ERROR_BODY_S = 0.25
"""How long the body of an error answer is waited for, only to keep the connection."""

_VISIBLE = re.compile(r"[\x21-\x7e]+")

T = TypeVar("T")


class _OversizedError(Exception):
    pass


@dataclass(slots=True)
class _Progress:
    """How far a request got, as told by httpcore's trace events."""

    traced: bool = False
    sending: bool = False

    async def __call__(self, event: str, _info: Mapping[str, Any]) -> None:
        self.traced = True
        if event.endswith("send_request_headers.started"):
            self.sending = True

    @property
    def may_have_arrived(self) -> bool:
        return self.sending or not self.traced


class ZionClient:
    """Calls Zion. Safe for any number of concurrent calls on one event loop.

    Calls on behalf of a request (``whoami``, ``limits``) and reports have a breaker each: a slow
    batch endpoint must not keep users out.

    Args:
        base_url: ``http://`` or ``https://``, with or without a path.
        api_key: sent as ``x-api-key`` with ``limits`` and ``report``.
        deadline_s: for a whole call, connecting and reading included.
        report_deadline_s: the same for ``report``: nobody waits for it, and giving up early only
            makes its outcome unknown.
        ca_file: PEM bundle that replaces the shipped roots; certificates are always verified.
        client_cert_file, client_key_file: PEM, for mutual TLS.
        lookup_board, report_board: share the breakers with other replicas; ``prime`` reads them.
        transport: replaces the network, for tests.

    Raises:
        ValueError: the URL, the key or a certificate file can't be used.
    """

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str,
        dialect: Dialect = Dialect.UNIFIED,
        deadline_s: float = 2.0,
        report_deadline_s: float = 10.0,
        max_connections: int = 100,
        ca_file: Path | None = None,
        client_cert_file: Path | None = None,
        client_key_file: Path | None = None,
        lookup_breaker: Breaker | None = None,
        report_breaker: Breaker | None = None,
        lookup_board: BreakerBoard | None = None,
        report_board: BreakerBoard | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        if _VISIBLE.fullmatch(api_key) is None:
            raise ValueError("the key for Zion must be visible ASCII without blanks")
        self.dialect = dialect
        self._base = _base_url(base_url)
        self._own_key = {"x-api-key": api_key}
        self._deadline_s = deadline_s
        self._report_deadline_s = report_deadline_s
        self._wall_clock = wall_clock
        self._lookup_breaker = SharedBreaker(lookup_breaker or Breaker(), lookup_board, clock=clock)
        self._report_breaker = SharedBreaker(report_breaker or Breaker(), report_board, clock=clock)
        self._retries = RetryBudget()
        self._own_key_refused = False
        self._http = httpx.AsyncClient(
            http2=True,
            verify=client_context(ca_file, client_cert_file, client_key_file),
            trust_env=False,
            follow_redirects=False,
            timeout=httpx.Timeout(report_deadline_s),  # replaced per request
            limits=httpx.Limits(
                max_connections=max_connections,
                max_keepalive_connections=max_connections,
                keepalive_expiry=KEEPALIVE_S,
            ),
            headers={
                "accept": "application/json",
                "accept-encoding": "identity",
                "user-agent": f"sentinel-extproc/{__version__}",
            },
            transport=transport,
        )

    @property
    def lookup_state(self) -> State:
        """The breaker before ``whoami`` and ``limits``."""
        return self._lookup_breaker.state

    @property
    def report_state(self) -> State:
        """The breaker before ``report``."""
        return self._report_breaker.state

    @property
    def own_key_refused(self) -> bool:
        """Whether Zion's last word about our own key was that it isn't good."""
        return self._own_key_refused

    async def prime(self) -> None:
        """Learn from the boards what the breakers are to start with: a restart forgets nothing."""
        await asyncio.gather(self._lookup_breaker.prime(), self._report_breaker.prime())

    async def reach(self, within_s: float) -> str:
        """Whether anything answers there, whatever it says: empty, or why not. It carries no key,
        and tells the breakers nothing."""
        request = self._http.build_request("HEAD", f"{self._base}/")
        deadline = asyncio.get_running_loop().time() + within_s
        request.extensions = {"timeout": _phases(deadline)}
        try:
            async with asyncio.timeout_at(deadline):
                answer = await self._http.send(request, stream=True)
                await answer.aclose()
        except TimeoutError:
            return "no answer in time"
        except httpx.HTTPError as error:
            return _fault(error)[1]
        return ""

    async def whoami(self, token: str) -> Profile:
        """Who a user's token belongs to.

        Raises:
            Unauthenticated: Zion says that the token is invalid.
            Forbidden: Zion refuses the account.
            ZionUnavailable: anything else; the token could not be checked.
        """
        if _VISIBLE.fullmatch(token) is None:
            raise Unauthenticated("The API key has characters that no key has.")
        return await self._get(
            Call.WHOAMI,
            "/api/v1/users/me",
            {"authorization": f"Bearer {token}"},
            wire.decode_profile,
        )

    async def limits(self, external_id: str) -> UserLimits:
        """A user's quotas as Zion has them now.

        Raises:
            Forbidden: no such user (``user_not_found``), or refused.
            ZionUnavailable: anything else.
        """
        if external_id in {"", ".", ".."}:  # path segments that servers resolve away
            raise Forbidden("The user service doesn't know this user.", code="user_not_found")
        return await self._get(
            Call.LIMITS,
            f"/api/v1/limits/external/{quote(external_id, safe='')}",
            self._own_key,
            lambda body: wire.decode_limits(self.dialect, body),
        )

    async def report(
        self, increments: Sequence[UsageIncrement], batch_key: str
    ) -> tuple[RowResult, ...]:
        """Bill increments; one result for each, in their order.

        Args:
            batch_key: ``Idempotency-Key`` of exactly these increments.

        Raises:
            BatchRefusedError: nothing was billed and the batch can't be taken as it is.
            ZionUnavailable: not billed, or if ``ambiguous`` nobody knows.
        """
        try:
            batch = batches.encode_batch(self.dialect, increments)
        except ValueError:
            raise BatchRefusedError(413 if increments else 400) from None  # as Zion would
        headers = self._own_key | {
            "content-type": "application/json",
            "idempotency-key": batch_key,
        }
        request = self._http.build_request(
            "POST",
            f"{self._base}/api/v1/usage/external/batch-increment",
            headers=headers,
            content=batch.body,
        )
        return await self._guarded(
            Call.REPORT,
            self._report_breaker,
            request,
            lambda body: batches.decode_rows(batch, body),
            deadline=asyncio.get_running_loop().time() + self._report_deadline_s,
            cap=MAX_BATCH_ANSWER_BYTES,
        )

    async def aclose(self) -> None:
        """Close the pooled connections."""
        await self._lookup_breaker.aclose()
        await self._report_breaker.aclose()
        await self._http.aclose()

    async def _get(
        self, call: Call, path: str, headers: Mapping[str, str], decode: Callable[[bytes], T]
    ) -> T:
        deadline = asyncio.get_running_loop().time() + self._deadline_s
        self._retries.deposit()
        while True:
            request = self._http.build_request("GET", self._base + path, headers=headers)
            try:
                return await self._guarded(
                    call,
                    self._lookup_breaker,
                    request,
                    decode,
                    deadline=deadline,
                    cap=MAX_ANSWER_BYTES,
                )
            except ZionUnavailable as error:
                # Mostly a pooled connection that the server had just closed.
                if error.reason is not Reason.BROKEN or not self._retries.withdraw():
                    raise

    async def _guarded(
        self,
        call: Call,
        breaker: SharedBreaker,
        request: httpx.Request,
        decode: Callable[[bytes], T],
        *,
        deadline: float,
        cap: int,
    ) -> T:
        permit = await breaker.admit()
        if isinstance(permit, Refusal):
            raise ZionUnavailable(
                "The user service is not answering; the request was not forwarded.",
                reason=Reason.BREAKER_OPEN,
                retry_after_s=permit.retry_after_s,
            )
        try:
            answer = await self._ask(call, request, decode, deadline=deadline, cap=cap)
        except (SentinelError, BatchRefusedError) as error:
            self._record(breaker, permit, error)
            raise
        except BaseException:  # cancelled: says nothing about Zion, and a probe must be given back
            breaker.abandon(permit)
            raise
        breaker.success(permit)
        return answer

    def _record(self, breaker: SharedBreaker, permit: Permit, error: Exception) -> None:
        reason = error.reason if isinstance(error, ZionUnavailable) else None
        if reason in FAULTS:
            breaker.failure(permit)
        elif reason is Reason.RATE_LIMITED and not permit.probe:
            breaker.abandon(permit)
        else:
            breaker.success(permit)

    async def _ask(
        self,
        call: Call,
        request: httpx.Request,
        decode: Callable[[bytes], T],
        *,
        deadline: float,
        cap: int,
    ) -> T:
        progress = _Progress()
        request.extensions = {"trace": progress, "timeout": _phases(deadline)}
        try:
            async with asyncio.timeout_at(deadline):
                response = await self._http.send(request, stream=True)
                try:
                    refused = own_key_refused(call, response.status_code)
                    if refused is not None:
                        self._own_key_refused = refused
                    if not response.is_success:
                        raise await self._failure(call, response)
                    return decode(await _body(response, cap))
                finally:
                    await response.aclose()
        except TimeoutError:
            reason, ambiguous, detail = Reason.TIMEOUT, progress.may_have_arrived, "deadline"
        except (wire.MalformedError, _OversizedError) as error:
            oversized = isinstance(error, _OversizedError)
            reason = Reason.OVERSIZED if oversized else Reason.MALFORMED
            ambiguous, detail = True, str(error)
        except httpx.HTTPError as error:
            reason, detail = _fault(error)
            ambiguous = reason is not Reason.CONNECT and progress.may_have_arrived
        raise ZionUnavailable(
            "The user service can't be reached right now; the request was not forwarded.",
            reason=reason,
            ambiguous=ambiguous and call is Call.REPORT,
            detail=detail,
        )

    async def _failure(self, call: Call, response: httpx.Response) -> Exception:
        # Reading a small body leaves the connection usable; the status stands whatever comes.
        length = response.headers.get("content-length", "")
        if length.isdigit() and len(length) < 5 and "content-encoding" not in response.headers:
            with contextlib.suppress(httpx.HTTPError, TimeoutError):
                async with asyncio.timeout(ERROR_BODY_S):
                    async for _ in response.aiter_bytes():
                        pass
        header = response.headers.get("retry-after")
        return failure(call, response.status_code, header, self._wall_clock())


def _phases(deadline: float) -> dict[str, float]:
    """Time-outs per phase. Connecting gets half of the time, so that it ends by a time-out of its
    own: the deadline cancels, and httpcore leaves a cancelled handshake's socket to the collector.
    """
    left = deadline - asyncio.get_running_loop().time()
    return {"pool": left / 2, "connect": left / 2, "read": left, "write": left}


async def _body(response: httpx.Response, cap: int) -> bytes:
    encoding = response.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise wire.MalformedError("compressed, though that was not asked for")
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > cap:
            raise _OversizedError(f"more than {cap} bytes")
    return bytes(body)


def _fault(error: httpx.HTTPError) -> tuple[Reason, str]:
    """Why a call failed below HTTP, and a detail for the operator that holds no secret."""
    if isinstance(error, httpx.LocalProtocolError):
        return Reason.REJECTED, "the request can't be expressed in HTTP"
    detail = f"{type(error).__name__}: {error}"[:200]
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout):
        return Reason.CONNECT, detail
    if isinstance(error, httpx.TimeoutException):
        return Reason.TIMEOUT, detail
    return Reason.BROKEN, detail


def _base_url(text: str) -> str:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise ValueError(f"not a URL: {error}") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError("the URL of Zion must start with http:// or https:// and name a host")
    if url.query or url.fragment or url.userinfo:
        raise ValueError("the URL of Zion must not have a query, fragment or credentials")
    return str(url).rstrip("/")
