"""One request over HTTP, and what became of it. The only user of aiohttp."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp import hdrs

from .answer import Answer
from .outcome import Outcome, Result, judge
from .planning import Planned
from .runner import Clock

_CONNECT_S = 10.0
_READ_BYTES = 1 << 16


class Sender:
    """Sends to one gateway over HTTP/1.1, with as many connections as there are requests at once.

    Use it as an asynchronous context manager.

    Args:
        target: its address; a path in it goes before every request's.
        timeout_s: of one request.
        trusted: for https; the system's authorities when None.
    """

    def __init__(
        self, target: str, *, timeout_s: float, trusted: ssl.SSLContext | None = None
    ) -> None:
        self._target = target.rstrip("/")
        self._timeout_s = timeout_s
        self._trusted = trusted
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self._trusted or True),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S),
            # A proxy or a cookie would change what is measured.
            trust_env=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={hdrs.USER_AGENT: "sentinel-extproc-load", hdrs.ACCEPT_ENCODING: "identity"},
            read_bufsize=_READ_BYTES,
        )
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def send(self, planned: Planned, due: float, now: Clock) -> Outcome:
        """Send it and read the answer to its end, or as long as its client stays."""
        if self._session is None:
            raise RuntimeError("used outside its context")
        sent, answer = now(), Answer(stream=planned.stream)
        status: int | None = None
        code: str | None = None
        retry_after: float | None = None
        leaves = planned.leaves_after_s
        try:
            async with (
                asyncio.timeout(self._timeout_s if leaves is None else leaves),
                self._session.post(
                    self._target + planned.path,
                    data=planned.body,
                    headers=planned.headers,
                    allow_redirects=False,
                ) as response,
            ):
                status = response.status
                code = response.headers.get("x-sentinel-error")
                retry_after = _retry_after(response.headers)
                async for data in response.content.iter_any():
                    answer.feed(data, now())
            result, reason = judge(status, code, complete=answer.complete, error=answer.error)
        except TimeoutError:
            left = leaves is not None
            result = Result.LEFT if left else Result.FAILED
            reason = None if left else "no end in time"
        except aiohttp.ClientConnectorError:
            result, reason = Result.FAILED, "no connection"
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError):
            result, reason = Result.FAILED, "connection lost"
        except (aiohttp.ClientError, ValueError) as fault:
            result, reason = Result.FAILED, f"not HTTP as expected: {type(fault).__name__}"
        tokens, told = answer.output_tokens() if result is Result.OK else (0, False)
        return Outcome(
            kind=planned.kind,
            result=result,
            due_s=due,
            sent_s=sent,
            ended_s=now(),
            status=status,
            reason=reason,
            first_s=answer.first_at,
            gaps=answer.gaps,
            output_tokens=tokens,
            told=told,
            retry_after_s=retry_after,
        )


def _retry_after(headers: Mapping[str, str]) -> float | None:
    value = headers.get("retry-after", "")
    # The other form, a date, is nobody's here.
    return float(value) if value.isdigit() and len(value) < 10 else None
