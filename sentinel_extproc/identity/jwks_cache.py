"""An issuer's key set, fetched when needed and kept while the issuer can't be reached.

Rotation needs no configuration: a token with an unknown key id makes us look again, at most once
per ``min_interval_s``, so that invented key ids can't be used to hammer the issuer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx

from sentinel_extproc.errors import Unavailable
from sentinel_extproc.identity.jwks import BadKeySetError, KeySet, VerificationKey, parse_jwks
from sentinel_extproc.zion.tls import client_context

logger = logging.getLogger(__name__)

MAX_BYTES = 256 * 1024
"""A key is about 1 KiB, and sets have a handful."""


class JwksCache:
    """The current keys of one issuer.

    Args:
        fetch: gets the key set's JSON; raises Unavailable, within a deadline of its own.
        fresh_s: age at which it is fetched anew.
        on_error_s: age up to which it is used when that fails.
        min_interval_s: least time between two fetches.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[bytes]],
        *,
        fresh_s: float = 300.0,
        on_error_s: float = 86_400.0,
        min_interval_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetch = fetch
        self._fresh_s = fresh_s
        self._on_error_s = on_error_s
        self._min_interval_s = min_interval_s
        self._clock = clock
        self._keys: KeySet | None = None
        self._fetched_at = 0.0
        self._tried_at: float | None = None
        self._failed = False
        self._fetching = asyncio.Lock()

    async def find(self, kid: str | None, alg: str) -> VerificationKey | None:
        """The key for a token's header; None when the issuer has none.

        Raises:
            Unavailable: the keys could not be had, so nothing can be said of the token.
        """
        keys = self._keys
        if keys is None or self._clock() - self._fetched_at >= self._fresh_s:
            keys = await self._refresh(keys)
        found = keys.find(kid, alg) if keys is not None else None
        if found is None:
            keys = await self._refresh(keys)
            found = keys.find(kid, alg) if keys is not None else None
        if found is None and (keys is None or self._failed):
            raise Unavailable(
                "The keys that API tokens are checked with can't be fetched right now.",
                code="identity_unavailable",
            )
        return found

    async def _refresh(self, seen: KeySet | None) -> KeySet | None:
        async with self._fetching:
            if self._keys is not seen:  # somebody else has fetched them meanwhile
                return self._keys
            now = self._clock()
            if self._tried_at is None or now - self._tried_at >= self._min_interval_s:
                self._tried_at = now
                self._failed = True
                try:
                    self._keys = parse_jwks(await self._fetch())
                except (Unavailable, BadKeySetError) as error:
                    logger.warning("the key set can't be fetched: %s", error)
                else:
                    self._failed = False
                    self._fetched_at = self._clock()
            if self._keys is not None and now - self._fetched_at >= self._on_error_s:
                self._keys = None
            return self._keys


class JwksEndpoint:
    """Fetches a key set over HTTP. Call it; close it.

    Raises:
        ValueError: the URL or the CA file can't be used.
    """

    def __init__(self, url: str, *, deadline_s: float = 2.0, ca_file: Path | None = None) -> None:
        parsed = httpx.URL(url)
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ValueError("the URL of the key set must start with http:// or https://")
        self._url = parsed
        self._deadline_s = deadline_s
        self._http = httpx.AsyncClient(
            verify=client_context(ca_file),
            trust_env=False,
            follow_redirects=False,
            timeout=httpx.Timeout(deadline_s / 2),
            headers={"accept": "application/json", "accept-encoding": "identity"},
        )

    async def __call__(self) -> bytes:
        """The body of a 200.

        Raises:
            Unavailable: anything else.
        """
        try:
            async with (
                asyncio.timeout(self._deadline_s),
                self._http.stream("GET", self._url) as response,
            ):
                if response.status_code != 200 or "content-encoding" in response.headers:
                    raise Unavailable(f"the key set's address answered {response.status_code}")
                body = bytearray()
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > MAX_BYTES:
                        raise Unavailable("the key set is too large")
                return bytes(body)
        except (httpx.HTTPError, TimeoutError) as error:
            raise Unavailable(f"the key set can't be fetched: {type(error).__name__}") from None

    async def aclose(self) -> None:
        """Close the connection."""
        await self._http.aclose()
