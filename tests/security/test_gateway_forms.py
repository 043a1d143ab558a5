"""Every form of a request that Envoy lets through is metered or refused, and arrives as counted."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from sentinel_extproc.demo.stack import PROVIDER_KEY

from .conftest import CHAT, EVE, SPENT, Gateway, request, status
from .raw_provider import USAGE, Received

CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(CHAT), CHAT)
TRAILED = b"%x\r\n%s\r\n0\r\nx-sentinel-user: root\r\nauthorization: Bearer x\r\n\r\n" % (
    len(CHAT),
    CHAT,
)
PATH = "/v1/chat/completions"
SAME = PATH
OTHER = "other"
"""Arrives as it was sent, and is metered by size."""

PATHS: dict[str, str | None] = {
    PATH: SAME,
    "//v1//chat/completions": SAME,
    "/v1/./chat/completions": SAME,
    "/v1/x/../chat/completions": SAME,
    "/v1/files/%2e%2e/chat/completions": SAME,
    "/v1/uploads/..;/chat/completions": SAME,
    "/v1/%63hat/completions": SAME,
    "/v1\\chat\\completions": SAME,
    "http://elsewhere.example/v1/chat/completions": SAME,
    "/v1/chat/completions/": OTHER,
    "/v1/Chat/Completions": OTHER,
    "/v1/chat/completions.": OTHER,
    "/v1/chat/completions?x=1": OTHER,
    "/v1/chat/completions?stream=true": None,
    "/v1/chat/completions?Max_Tokens=1": None,
    "/v1/chat/completions?_method=GET": None,
    "/v1/chat/completions?a=1;model=x": None,
    "/v1/chat/completions?max.tokens=1": None,
    "/v1/models/..%2fchat/completions": None,
    "/v1/chat%2Fcompletions": None,
    "/v1/chat%252fcompletions": None,
    "/v1/chat/completions%23x": None,
    "/v1/chat/completions%3f": None,
    "/v1/chat/completions%00": None,
    "/v1/chat/completions#x": None,
    "/v1/chat/completions;x=1": None,
    "/v1/uploads/..%2fchat/completions": None,
    "/v1/uploads/%%32%65%%32%65/chat/completions": None,
    "/v1/uploads/%c0%ae%c0%ae/chat/completions": None,
    "/v1/uploads/%u002e%u002e/chat/completions": None,
    "/V1/chat/completions": None,
    "//elsewhere.example/v1/chat/completions": None,
    "*": None,
    "v1/chat/completions": None,
    "/v1/" + "a" * 9000: None,
}

Make = Callable[[str | None], bytes]


def form(*lines: str, body: bytes = CHAT, length: bool = True, method: str = "POST") -> Make:
    return lambda token: request(PATH, *lines, body=body, length=length, method=method, token=token)


def chunked(*lines: str, body: bytes = CHUNKED, length: bool = False) -> Make:
    return form(*lines, body=body, length=length)


def to(path: str) -> Make:
    return lambda token: request(path, token=token)


def content(kind: str) -> Make:
    return lambda token: request(PATH, kind=kind, token=token)


def replaced(old: bytes, new: bytes) -> Make:
    return lambda token: request(token=token).replace(old, new)


FORMS: dict[str, tuple[Make, str | None]] = {
    "chunked": (chunked("transfer-encoding: chunked"), SAME),
    "chunked, and a length": (chunked("transfer-encoding: chunked", length=True), None),
    "chunked, misspelt": (chunked("transfer-encoding: xchunked"), None),
    "chunked twice": (chunked("transfer-encoding: chunked, chunked"), None),
    "chunked, then identity": (chunked("transfer-encoding: chunked, identity"), None),
    "chunked behind a vertical tab": (chunked("transfer-encoding: \x0bchunked"), None),
    "a blank before the colon": (chunked("transfer-encoding : chunked"), None),
    "trailers": (chunked("transfer-encoding: chunked", body=TRAILED), SAME),
    "two lengths": (form("content-length: 0"), None),
    "the same length twice": (form(f"content-length: {len(CHAT)}"), None),
    "a list of lengths": (form(f"content-length: {len(CHAT)}, 0", length=False), None),
    "a signed length": (form(f"content-length: +{len(CHAT)}", length=False), None),
    "a negative length": (form("content-length: -1", length=False), None),
    "a hexadecimal length": (form("content-length: 0x10", length=False), None),
    "a giant length": (form("content-length: 99999999999999999999", length=False), None),
    "a folded header": (form("x-a: 1\r\n x-sentinel-user: root"), SAME),
    "line feeds alone": (replaced(b"\r\n", b"\n"), SAME),
    "a carriage return in a header": (form("x-a: a\rx-sentinel-user: root"), SAME),
    "a NUL in a header": (form("x-a: a\x00b"), None),
    "no host": (replaced(b"host: gateway.example\r\n", b""), None),
    "HTTP/1.0": (replaced(b"HTTP/1.1", b"HTTP/1.0"), None),
    "upgrade to h2c": (
        form("connection: upgrade, http2-settings", "upgrade: h2c", "http2-settings: AAMAAABk"),
        SAME,
    ),
    "a WebSocket": (
        form(
            "connection: upgrade",
            "upgrade: websocket",
            "sec-websocket-version: 13",
            "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
            body=b"",
            length=False,
            method="GET",
        ),
        None,
    ),
    "our key taken off by Connection": (form("connection: authorization"), None),
    "compressed": (form("content-encoding: gzip"), None),
    "as a form": (content("application/x-www-form-urlencoded"), SAME),
    "as text": (content("text/plain"), SAME),
    "as UTF-16": (content("application/json; charset=utf-16"), None),
    "as UTF-7": (content("application/json; charset=utf-7"), None),
    "as two types": (content("application/json, text/plain"), None),
    "two types": (form("content-type: text/plain"), None),
    "reading, with a body": (form(method="GET"), None),
    "TRACE": (form(method="TRACE"), None),
    "CONNECT": (form(method="CONNECT"), None),
    "an unknown method": (form(method="FOO"), None),
    "a method in small letters": (form(method="post"), None),
    "a giant header": (form("x-a: " + "a" * 70_000), None),
    "10,000 headers": (form(*(f"x-{n}: {n}" for n in range(10_000))), None),
    "a byte order mark": (form(body=b"\xef\xbb\xbf" + CHAT), None),
    "a name twice": (form(body=CHAT[:-1] + b',"model":"gpt-5"}'), None),
    "a name in capitals": (form(body=CHAT[:-1] + b',"Max_Tokens":100000}'), None),
    "stream as text": (form(body=CHAT[:-1] + b',"stream":"true"}'), None),
    "a giant n": (form(body=CHAT[:-1] + b',"n":1000000}'), None),
} | {
    f"path {path[:60]}": (
        (lambda token, path=path: request(path, token=token)),
        path if end == OTHER else end,
    )
    for path, end in PATHS.items()
}


def all_answers(gateway: Gateway, token: str | None) -> dict[str, int]:
    """The status of each form; 0 for a connection that was closed instead."""

    def ask(name: str) -> int:
        return status(gateway.send(FORMS[name][0](token), seconds=8))

    with ThreadPoolExecutor(16) as pool:
        return dict(zip(FORMS, pool.map(ask, FORMS), strict=True))


@pytest.mark.parametrize("token", [None, "nobody-knows-this", SPENT], ids=["no", "wrong", "spent"])
def test_no_form_gets_past_authentication_or_a_limit(gateway: Gateway, token: str | None) -> None:
    before = len(gateway.provider.received)
    answers = all_answers(gateway, token)
    assert {name: code for name, code in answers.items() if code and not 400 <= code < 500} == {}
    assert [r.line for r in gateway.provider.received[before:]] == []


def test_what_passes_arrives_as_it_was_counted_and_is_billed(gateway: Gateway) -> None:
    before = len(gateway.provider.received)
    billed = gateway.billed("ext-eve")
    answers = all_answers(gateway, EVE)
    expected = {name: end is not None for name, (_, end) in FORMS.items()}
    assert {name: code == 200 for name, code in answers.items()} == expected
    assert {name: code for name, code in answers.items() if code >= 500} == {}
    arrived = gateway.provider.received[before:]
    assert sorted(r.target for r in arrived) == sorted(
        end for _, end in FORMS.values() if end is not None
    )
    for one in arrived:
        assert_clean(one)
        assert one.body == CHAT
    count = billed[0] + len(arrived), billed[1] + len(arrived) * USAGE["total_tokens"]
    deadline = time.monotonic() + 30
    while gateway.billed("ext-eve") != count:
        assert time.monotonic() < deadline, (gateway.billed("ext-eve"), count)
        time.sleep(0.1)


def assert_clean(one: Received) -> None:
    assert one.values("authorization") == [f"Bearer {PROVIDER_KEY}"]
    assert EVE.encode() not in one.head
    assert not [name for name, _ in one.headers if name.startswith("x-sentinel-")]
    assert one.values("content-type") == ["application/json"]
    assert len(one.values("content-length")) + len(one.values("transfer-encoding")) == 1


STEERING = [
    *("x-sentinel-user: root", "x_sentinel_user: root", "X-Sentinel-Meter: stream"),
    *("x-envoy-retry-on: 5xx,gateway-error", "x-envoy-max-retries: 9"),
    *("x-envoy-upstream-rq-timeout-ms: 1", "x-envoy-original-path: /v1/models"),
    *("x-envoy-internal: true", "x-envoy-upstream-alt-stat-name: q", "x-envoy-ip-tags: a"),
    *("x-http-method-override: GET", "x_http_method_override: GET", "x-original-url: /v1/models"),
    *("x-rewrite-url: /v1/models", "forwarded: host=evil", "x-forwarded-host: evil"),
    *("x-forwarded-for: 10.0.0.1", "connection: close, x-hop", "x-hop: 1", "openai_project: p"),
    *("x_api_key: k", "x-api-key: k", "cookie: a=b", "content_length: 3", "transfer_encoding: x"),
    *("x-request-tag: kept", "session_id: kept"),
]


def test_headers_that_steer_or_impersonate_stay_at_the_gateway(gateway: Gateway) -> None:
    before = len(gateway.provider.received)
    assert status(gateway.send(request(PATH, *STEERING))) == 200
    (arrived,) = gateway.provider.received[before:]
    assert_clean(arrived)
    names = {name for name, _ in arrived.headers}
    sent = {line.partition(":")[0].lower() for line in STEERING}
    assert names & sent <= {"x-request-tag", "session_id"}
    assert {"x-request-tag", "session_id"} <= names


def test_a_second_request_hidden_in_a_body_is_a_body(gateway: Gateway) -> None:
    """What follows a request on its connection is a request of its own, without its rights."""
    before = len(gateway.provider.received)
    hidden = request(token=None)
    answer = gateway.send(request(body=CHAT) + hidden)
    assert status(answer) == 200
    inside = request(body=CHAT[:-1] + b',"x":"' + b"POST /v1/models HTTP/1.1" + b'"}')
    assert status(gateway.send(inside)) == 200
    assert len(gateway.provider.received) == before + 2


def test_a_flood_of_unknown_tokens_leaves_the_known_ones_served(gateway: Gateway) -> None:
    """Zion is asked for a bounded number of them, by ``identity.gate``."""
    before = len(gateway.provider.received)

    def stranger(n: int) -> int:
        return status(gateway.send(request(token=f"made-up-token-{n:06d}")))

    with ThreadPoolExecutor(24) as pool:
        flood = [pool.submit(stranger, n) for n in range(240)]
        served = [status(gateway.send(request())) for _ in range(10)]
        answers = {one.result() for one in flood}
    assert served == [200] * 10
    assert answers <= {401, 503}
    assert len(gateway.provider.received) == before + 10


def test_bodies_that_never_end_hold_up_nobody_and_reach_nobody(gateway: Gateway) -> None:
    before = len(gateway.provider.received)
    head = request(body=b"", length=False)[:-2] + b"content-length: 1000\r\n\r\n{"
    links = [gateway.open() for _ in range(100)]
    try:
        for link in links:
            link.sendall(head)
        assert [status(gateway.send(request())) for _ in range(10)] == [200] * 10
    finally:
        for link in links:
            link.close()
    assert len(gateway.provider.received) == before + 10


def test_no_secret_is_in_a_log_an_answer_or_a_metric(gateway: Gateway) -> None:
    said = [
        gateway.send(request(token=token, body=body), seconds=8)
        for token in (EVE, SPENT, "nobody-knows-this")
        for body in (CHAT, b"{", CHAT[:-1] + b',"model":"' + EVE.encode() + b'"}')
    ]
    folder = gateway.folder
    written = [path.read_bytes() for path in folder.rglob("*.log")]
    assert any(b"exchange" in one for one in written), "the logs are looked at"
    secrets = (EVE, SPENT, PROVIDER_KEY, "standin-zion-key")
    for secret in secrets:
        for text in written:
            assert secret.encode() not in text
        for text in said:
            assert secret.encode() not in text
