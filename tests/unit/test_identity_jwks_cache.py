"""The key set's cache: rotation, outages, invented key ids; and its fetching over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from jwt.algorithms import OKPAlgorithm

from sentinel_extproc.errors import Unavailable
from sentinel_extproc.identity.jwks_cache import MAX_BYTES, JwksCache, JwksEndpoint

KEY = OKPAlgorithm.to_jwk(ed25519.Ed25519PrivateKey.generate().public_key(), as_dict=True)


def jwks(*kids: str) -> bytes:
    values = {name: value for name, value in KEY.items() if name != "key_ops"}
    return json.dumps({"keys": [{**values, "kid": kid} for kid in kids]}).encode()


@dataclass
class Issuer:
    body: bytes | None = field(default_factory=lambda: jwks("a"))
    fetches: int = 0
    now: float = 0.0

    async def __call__(self) -> bytes:
        self.fetches += 1
        await asyncio.sleep(0)
        if self.body is None:
            raise Unavailable("down")
        return self.body


def cache(issuer: Issuer) -> JwksCache:
    return JwksCache(
        issuer, fresh_s=300, on_error_s=3600, min_interval_s=10, clock=lambda: issuer.now
    )


async def test_fetched_once_for_all() -> None:
    issuer = Issuer()
    keys = cache(issuer)
    found = await asyncio.gather(*(keys.find("a", "EdDSA") for _ in range(100)))
    assert None not in found
    assert issuer.fetches == 1


async def test_a_new_key_is_found_when_a_token_names_it() -> None:
    issuer = Issuer()
    keys = cache(issuer)
    await keys.find("a", "EdDSA")
    issuer.body = jwks("a", "b")
    issuer.now = 11
    assert await keys.find("b", "EdDSA") is not None
    assert issuer.fetches == 2


async def test_a_withdrawn_key_is_gone_after_the_fresh_period() -> None:
    issuer = Issuer()
    keys = cache(issuer)
    await keys.find("a", "EdDSA")
    issuer.body = jwks("b")
    issuer.now = 299
    assert await keys.find("a", "EdDSA") is not None
    issuer.now = 300
    assert await keys.find("a", "EdDSA") is None


async def test_invented_key_ids_do_not_hammer_the_issuer() -> None:
    issuer = Issuer()
    keys = cache(issuer)
    for number in range(1000):
        issuer.now = number / 100  # ten seconds in all
        assert await keys.find(f"invented-{number}", "EdDSA") is None
    assert issuer.fetches == 1


@pytest.mark.parametrize("body", [None, b"<html>", b'{"keys": []}'])
async def test_old_keys_serve_while_the_issuer_is_down_and_then_no_more(
    body: bytes | None,
) -> None:
    issuer = Issuer()
    keys = cache(issuer)
    await keys.find("a", "EdDSA")
    issuer.body = body
    for now in (300, 1000, 3599):
        issuer.now = now
        assert await keys.find("a", "EdDSA") is not None
    with pytest.raises(Unavailable):  # it may be a new key: nothing can be said
        await keys.find("b", "EdDSA")
    issuer.now = 3611
    with pytest.raises(Unavailable):
        await keys.find("a", "EdDSA")
    issuer.body = jwks("a")
    issuer.now = 3622
    assert await keys.find("a", "EdDSA") is not None


async def test_no_key_at_all_is_unavailable_and_not_hammered() -> None:
    issuer = Issuer(body=None)
    keys = cache(issuer)
    for _ in range(50):
        with pytest.raises(Unavailable):
            await keys.find("a", "EdDSA")
    assert issuer.fetches == 1


@asynccontextmanager
async def serving(answer: bytes | None) -> AsyncIterator[str]:
    done = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if answer is None:
            await done.wait()
        else:
            writer.write(answer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/keys"
    finally:
        done.set()
        server.close()
        await server.wait_closed()


def http(body: bytes, status: str = "200 OK", more: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{more}connection: close\r\n\r\n"
    return head.encode() + body


async def test_fetching() -> None:
    async with serving(http(jwks("a"))) as url:
        endpoint = JwksEndpoint(url)
        assert await endpoint() == jwks("a")
        await endpoint.aclose()


@pytest.mark.parametrize(
    "answer",
    [
        None,
        b"",
        b"not http\r\n\r\n",
        http(b"", "500 Oops"),
        http(b"", "302 Found", "location: http://127.0.0.1:1/\r\n"),
        http(b"x", more="content-encoding: gzip\r\n"),
        http(b" " * (MAX_BYTES + 1)),
    ],
)
async def test_fetching_fails_clearly(answer: bytes | None) -> None:
    async with serving(answer) as url:
        endpoint = JwksEndpoint(url, deadline_s=0.2 if answer is None else 5.0)
        with pytest.raises(Unavailable):
            await endpoint()
        await endpoint.aclose()


@pytest.mark.parametrize("url", ["", "keys", "file:///etc/passwd", "http://"])
def test_a_url_that_can_not_be_fetched(url: Any) -> None:
    with pytest.raises(ValueError, match="URL"):
        JwksEndpoint(url)
