"""Who may ask the admin port, and how much: the layer in front of its routes.

A browser that somebody lured to a hostile page is the attacker to think of on a loopback port. It
can't send our Authorization header without a preflight, which nothing here answers; and under a
name that was rebound to this address it would send that name as Host, which is refused. The live
page's forms have guards of their own (``page.routes``).
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sentinel_extproc.errors import Forbidden, SentinelError, Unauthenticated, Unavailable

ANSWER_WITHIN_S = 10.0
"""For a whole request, its body included; a slow client is a fault of its own."""

_HARDENING = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
"""Unless an answer has its own: the live page must be allowed its script."""


class HostRule:
    """Which Host headers are ours: addresses, ``localhost``, and names that were configured.

    An address can't be rebound, so every address may be used: probes use the pod's.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = {"localhost", *(name.lower().rstrip(".") for name in names)}

    def allows(self, values: Sequence[bytes]) -> bool:
        """Whether a request with these Host headers is meant for us."""
        if len(values) != 1:
            return False
        try:
            parts = urlsplit(f"//{values[0].decode('ascii')}")
            host, _ = parts.hostname, parts.port
        except ValueError:
            return False
        if not host or parts.path or parts.username is not None:
            return False
        return host.rstrip(".") in self._names or _is_address(host)


class Access:
    """Decides whether a control call may be made.

    Args:
        token: what callers must present; None when none is configured.
        trusted_peers: whoever can connect was checked already: by a Unix socket's permissions, or
            by a client certificate.
    """

    def __init__(self, *, token: str | None, trusted_peers: bool) -> None:
        # Digests have one length, so that comparing them doesn't tell the token's.
        self._digest = None if token is None else _digest(token.encode())
        self._trusted_peers = trusted_peers

    @property
    def without_token(self) -> bool:
        """Whether whoever can connect may control."""
        return self._digest is None and self._trusted_peers

    def check(self, values: Sequence[bytes]) -> None:
        """Check a call's Authorization headers.

        Raises:
            Unauthenticated: no token, or not ours.
            Forbidden: there is no token that it could have, and no other trust.
        """
        if self._digest is None:
            if self._trusted_peers:
                return
            raise Forbidden(
                "Control needs an admin token, and none is configured: set admin.token.",
                code="admin_token_not_configured",
            )
        scheme, _, given = (values[0] if len(values) == 1 else b"").partition(b" ")
        same = hmac.compare_digest(_digest(given.strip()), self._digest)
        if scheme.lower() != b"bearer" or not same:
            raise Unauthenticated(
                "Control needs the admin token: 'Authorization: Bearer <token>'.",
                code="invalid_admin_token",
                headers={"www-authenticate": 'Bearer realm="sentinel-admin"'},
            )


class Guard:
    """The outermost layer: hosts, time, and headers that every answer has.

    Args:
        hosts: None where no browser can come from, as on a Unix socket.
    """

    def __init__(
        self, app: ASGIApp, *, hosts: HostRule | None, answer_within_s: float = ANSWER_WITHIN_S
    ) -> None:
        self._app = app
        self._hosts = hosts
        self._answer_within_s = answer_within_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            return
        started = False

        async def hardened(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                given = list(message.get("headers", ()))
                own = {name for name, _ in given}
                message["headers"] = given + [one for one in _HARDENING if one[0] not in own]
            await send(message)

        hosts = [value for name, value in scope["headers"] if name == b"host"]
        if self._hosts is not None and not self._hosts.allows(hosts):
            await _answer(hardened, Forbidden("This is not a name of ours.", code="unknown_host"))
            return
        try:
            async with asyncio.timeout(self._answer_within_s) as limit:
                await self._app(scope, receive, hardened)
        except TimeoutError:
            if not limit.expired():
                raise
            if not started:
                await _answer(hardened, Unavailable("The answer took too long."))


async def _answer(send: Send, error: SentinelError) -> None:
    body = error.body()
    headers = [(name.encode(), value.encode()) for name, value in error.headers().items()]
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _digest(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
