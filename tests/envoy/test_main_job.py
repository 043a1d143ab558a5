"""The main job through the real Envoy and the real Redis: what clients, provider and Zion see."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import h2.connection
import h2.events
import httpx
import openai
import pytest

from sentinel_extproc.demo.openai_standin import OpenAIStandIn
from sentinel_extproc.demo.stack import PROVIDER_KEY, Stack
from sentinel_extproc.demo.zion_standin import FaultKind, ZionCall, ZionStandIn
from sentinel_extproc.demo.zion_state import ZionUser

ADA = "demo-ada"
CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Grüße, 世界 🎈"}]}
BODY = json.dumps(CHAT).encode()


def eventually(check: Callable[[], bool], *, seconds: float = 20.0) -> None:
    """Wait for ``check`` to hold; it fails the test when it never does."""
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)


def provider(stack: Stack) -> OpenAIStandIn:
    assert stack.openai is not None
    return stack.openai


def zion(stack: Stack) -> ZionStandIn:
    assert stack.zion is not None
    return stack.zion


def call(
    stack: Stack,
    body: object = CHAT,
    *,
    path: str = "/v1/chat/completions",
    method: str = "POST",
    token: str | None = ADA,
    headers: dict[str, str] | list[tuple[str, str]] | None = None,
) -> httpx.Response:
    lines = list(headers.items() if isinstance(headers, dict) else headers or [])
    if token is not None:
        lines.append(("authorization", f"Bearer {token}"))
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.request(
        method,
        stack.url + path,
        content=content if method == "POST" else None,
        headers=[("content-type", "application/json"), *lines],
        trust_env=False,
        timeout=30,
    )


def client(stack: Stack, token: str = ADA) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{stack.url}/v1",
        api_key=token,
        max_retries=0,
        http_client=openai.DefaultHttpxClient(trust_env=False),
    )


def billed(stack: Stack, user: str) -> tuple[int, int, int]:
    """Requests, input tokens and output tokens."""
    rows = [row for row in zion(stack).ledger() if row.external_id == user]
    return (
        sum(row.requests for row in rows),
        sum(row.input_tokens for row in rows),
        sum(row.output_tokens for row in rows),
    )


class Newcomer:
    """A user of a test's own, so that what was billed is this test's alone."""

    count = 0

    def __init__(self, stack: Stack) -> None:
        Newcomer.count += 1
        self.token = f"newcomer-{Newcomer.count}"
        self.external_id = f"ext-{self.token}"
        zion(stack).put_user(
            ZionUser(self.token, f"u-{self.token}", self.external_id, f"{self.token}@example.com")
        )


def last_request(stack: Stack) -> dict[str, list[str]]:
    seen = provider(stack).requests()[-1]
    headers: dict[str, list[str]] = {}
    for name, value in seen.headers:
        headers.setdefault(name, []).append(value)
    return headers


class TestWhatTheProviderSees:
    def test_its_own_key_and_nothing_of_the_users(self, stack: Stack) -> None:
        answer = call(
            stack,
            headers={
                "accept-encoding": "gzip, br",
                "x-sentinel-user": "somebody-else",
                "x-sentinel-anything": "1",
                "x-api-key": ADA,
                "cookie": f"session={ADA}",
                "openai-organization": "org-other",
                "x-request-tag": "kept",
            },
        )
        assert answer.status_code == 200
        headers = last_request(stack)
        assert headers["authorization"] == [f"Bearer {PROVIDER_KEY}"]
        assert headers["x-request-tag"] == ["kept"]
        for gone in ("accept-encoding", "x-api-key", "cookie", "openai-organization"):
            assert gone not in headers
        assert not [name for name in headers if name.startswith("x-sentinel-")]
        assert ADA not in json.dumps(headers)

    def test_the_body_byte_for_byte(self, stack: Stack) -> None:
        messages = b'"messages":[{"role":"user","content":"\\u00e9"}]'
        body = b' { "model":"gpt-4o-mini", "temperature": 1.0e0,' + messages + b" }\n"
        assert call(stack, body).status_code == 200
        assert provider(stack).requests()[-1].body.encode() == body


class TestWhatTheClientSees:
    def test_a_chat_with_limits_on_the_answer(self, stack: Stack) -> None:
        with client(stack) as api:
            raw = api.chat.completions.with_raw_response.create(**CHAT)  # type: ignore[call-overload]
        assert raw.parse().choices[0].message.content
        for unit in ("", "-requests", "-tokens"):
            limit = int(raw.headers[f"x-ratelimit-limit{unit}"])
            assert 0 <= int(raw.headers[f"x-ratelimit-remaining{unit}"]) < limit
            assert f"x-ratelimit-reset{unit}" in raw.headers
        assert "x-sentinel-exchange-id" in raw.headers

    @pytest.mark.parametrize(
        "options", [None, {"include_usage": False}, {"include_usage": True}, {}]
    )
    def test_a_stream_exactly_as_the_provider_would_have_sent_it(
        self, stack: Stack, options: dict[str, bool] | None
    ) -> None:
        body: dict[str, object] = CHAT | {"stream": True}
        if options is not None:
            body["stream_options"] = options

        def comparable(text: str) -> list[object]:
            events = [line[6:] for line in text.split("\n\n") if line]
            chunks = [json.loads(event) for event in events[:-1]]
            for chunk in chunks:
                del chunk["id"], chunk["created"]
            return [*chunks, events[-1]]

        through = call(stack, body)
        direct = httpx.post(
            f"{stack.services.openai_url}/v1/chat/completions",
            json=body,
            headers={"authorization": f"Bearer {PROVIDER_KEY}"},
            trust_env=False,
        )
        assert comparable(through.text) == comparable(direct.text)
        assert through.headers["content-type"] == direct.headers["content-type"]
        assert json.loads(provider(stack).requests()[-2].body)["stream_options"]["include_usage"]

    def test_the_openai_client_reads_the_stream(self, stack: Stack) -> None:
        with client(stack) as api:
            chunks = list(api.chat.completions.create(**CHAT, stream=True))  # type: ignore[call-overload]
        assert "".join(c.choices[0].delta.content or "" for c in chunks)
        assert all(c.usage is None for c in chunks)

    def test_models_are_free(self, stack: Stack) -> None:
        user = Newcomer(stack)
        with client(stack, user.token) as api:
            assert api.models.list().data
            api.chat.completions.create(**CHAT)  # type: ignore[call-overload]
        eventually(lambda: billed(stack, user.external_id)[0] > 0)
        assert billed(stack, user.external_id)[0] == 1

    def test_an_error_of_the_provider_as_it_is(self, stack: Stack) -> None:
        answer = call(stack, headers={"x-standin-fault": "error-500"})
        assert answer.status_code == 500
        assert "error" in answer.json()
        assert "x-ratelimit-limit" in answer.headers

    def test_an_endpoint_without_rules_is_governed_too(self, stack: Stack) -> None:
        assert call(stack, path="/v1/unheard/of", token="wrong").status_code == 401
        answer = call(stack, path="/v1/unheard/of", method="GET")
        assert answer.status_code == 404
        assert "x-ratelimit-limit" in answer.headers
        assert provider(stack).requests()[-1].path == "/v1/unheard/of"

    def test_a_path_that_is_not_ours(self, stack: Stack) -> None:
        before = len(provider(stack).requests())
        for path in ("/", "/other", "/v1", "/v1x/chat/completions"):
            answer = call(stack, path=path)
            assert answer.status_code == 404, path
            assert answer.json()["error"]["code"] == "unknown_url"
        answer = call(stack, path="/v1/chat%2Fcompletions")
        assert answer.status_code == 400
        assert len(provider(stack).requests()) == before


AUTHORIZATIONS: list[tuple[str, list[bytes]]] = [
    ("none", []),
    ("empty", [b""]),
    ("scheme only", [b"Bearer"]),
    ("no scheme", [ADA.encode()]),
    ("basic", [b"Basic ZGVtby1hZGE6"]),
    ("two words", [b"Bearer demo-ada demo-ada"]),
    ("doubled", [b"Bearer demo-ada", b"Bearer demo-ada"]),
    ("doubled, differing", [b"Bearer wrong", b"Bearer demo-ada"]),
    ("joined", [b"Bearer demo-ada, Bearer demo-ada"]),
    ("unknown", [b"Bearer nobody-knows-this"]),
    ("over 8 KiB", [b"Bearer " + b"x" * 8193]),
    ("20 KiB", [b"Bearer " + b"x" * 20_000]),
    ("not ascii", ["Bearer démo".encode()]),
]


class TestBadInput:
    @pytest.mark.parametrize(
        "values", [case[1] for case in AUTHORIZATIONS], ids=[case[0] for case in AUTHORIZATIONS]
    )
    def test_authorization(self, stack: Stack, values: list[bytes]) -> None:
        before = len(provider(stack).requests())
        answer = httpx.post(
            f"{stack.url}/v1/chat/completions",
            content=BODY,
            headers=[(b"authorization", value) for value in values],
            trust_env=False,
        )
        assert answer.status_code == 401
        error = answer.json()["error"]
        assert error["code"] == "invalid_api_key"
        assert error["message"]
        assert "www-authenticate" in answer.headers
        assert len(provider(stack).requests()) == before

    def test_the_openai_client_raises_its_own_errors(self, stack: Stack) -> None:
        with client(stack, "wrong") as api, pytest.raises(openai.AuthenticationError):
            api.chat.completions.create(**CHAT)  # type: ignore[call-overload]
        with client(stack) as api, pytest.raises(openai.BadRequestError) as caught:
            api.chat.completions.create(model="", messages=[])
        assert caught.value.param == "model"

    def test_a_profile_without_an_external_id(self, stack: Stack) -> None:
        for place, external_id in enumerate((None, "")):
            token = f"no-external-id-{place}"
            zion(stack).put_user(ZionUser(token, f"u-{token}", external_id, "n@example.com"))
            before = len(provider(stack).requests())
            answer = call(stack, token=token)
            assert answer.status_code == 403
            assert answer.json()["error"]["code"] == "external_id_missing"
            assert len(provider(stack).requests()) == before

    @pytest.mark.parametrize(
        ("name", "body", "code"),
        [
            ("empty", b"", "empty_body"),
            ("not json", b"hello", "invalid_json"),
            ("not an object", b"[1]", "invalid_json"),
            ("no model", b'{"messages":[{"role":"user","content":"x"}]}', "invalid_request"),
            ("no messages", b'{"model":"m"}', "invalid_request"),
            ("wrong types", b'{"model":7,"messages":"x"}', "invalid_request"),
            ("bad utf-8", b'{"model":"\xff"}', "invalid_utf8"),
            ("10,000 deep", b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}", "nested_too_deep"),
            ("duplicate keys", b'{"model":"a","model":"b"}', "duplicate_key"),
            ("huge integer", b'{"max_tokens":' + b"9" * 9000 + b"}", "number_too_large"),
            ("huge float", b'{"max_tokens":1e999}', "number_too_large"),
            ("negative cap", BODY[:-1] + b',"max_tokens":-5}', "invalid_request"),
            ("giant n", BODY[:-1] + b',"n":100000}', "invalid_request"),
            ("stream as text", BODY[:-1] + b',"stream":"yes"}', "invalid_request"),
        ],
    )
    def test_bodies(self, stack: Stack, name: str, body: bytes, code: str) -> None:
        before = len(provider(stack).requests())
        answer = call(stack, body)
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == code
        assert answer.json()["error"]["type"] == "invalid_request_error"
        assert len(provider(stack).requests()) == before

    def test_a_compressed_request_and_an_upgrade(self, stack: Stack) -> None:
        before = len(provider(stack).requests())
        answer = call(stack, headers={"content-encoding": "gzip"})
        assert answer.json()["error"]["code"] == "unsupported_content_encoding"
        assert len(provider(stack).requests()) == before

    @pytest.mark.parametrize("body", [b"", BODY], ids=["no body", "body"])
    @pytest.mark.parametrize("method", ["POST", "GET"])
    def test_trailers_do_not_slip_past_us(
        self, run_stack: Callable[..., Stack], method: str, body: bytes
    ) -> None:
        stack = run_stack(settings={"SENTINEL_LIMITS__REQUESTS": "1"})
        path = "/v1/chat/completions" if method == "POST" else "/v1/models"
        statuses = [with_trailers(stack, method, path, body) for _ in range(3)]
        served = method == "POST" and body
        assert statuses == ([200, 429, 429] if served else [400] * 3)
        assert len(provider(stack).requests()) == int(bool(served))

    def test_one_hostile_body_does_not_hold_up_others(self, stack: Stack) -> None:
        hostile = b'{"x":[' + b"[]," * 4_000_000 + b"1]}"
        with ThreadPoolExecutor(4) as pool:
            calls = [pool.submit(call, stack, hostile) for _ in range(3)]
            others = [call(stack).status_code for _ in range(10)]
            refused = {c.result().status_code for c in calls}
        assert refused == {413}
        assert others == [200] * 10

    def test_memory_stays_flat_under_it(self, stack: Stack) -> None:
        bodies = [
            b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
            b'{"max_tokens":' + b"9" * 9000 + b"}",
            b'{"model":"' + b"x" * 500_000 + b'"}',
            b'{"model":"a","model":"b"}',
            b"\xff" * 100_000,
        ]

        def round_of(count: int) -> None:
            for place in range(count):
                assert call(stack, bodies[place % len(bodies)]).status_code == 400

        round_of(100)
        before = resident_bytes(stack)
        round_of(300)
        assert resident_bytes(stack) < before * 1.1 + (4 << 20)


def resident_bytes(stack: Stack) -> int:
    status = Path(f"/proc/{stack.sidecar.process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def with_trailers(stack: Stack, method: str, path: str, body: bytes) -> int:
    """The status of an HTTP/2 request that ends in trailers, with or without DATA before them."""
    address = urlsplit(stack.url)
    link = h2.connection.H2Connection()
    with socket.create_connection((str(address.hostname), address.port or 80), timeout=20) as peer:
        link.initiate_connection()
        lines = [
            (":method", method),
            (":path", path),
            (":scheme", "http"),
            (":authority", "gateway"),
            ("authorization", f"Bearer {ADA}"),
            ("content-type", "application/json"),
        ]
        link.send_headers(1, lines)
        if body:
            link.send_data(1, body)
        link.send_headers(1, [("x-trailer", "1")], end_stream=True)
        peer.sendall(link.data_to_send())
        while data := peer.recv(65536):
            for event in link.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived):
                    assert event.headers is not None
                    return int(dict(event.headers)[b":status"])
            peer.sendall(link.data_to_send())
    raise AssertionError("the connection ended without an answer")


class TestBilling:
    def test_what_was_served_is_what_is_billed(self, stack: Stack) -> None:
        user = Newcomer(stack)
        before = len(provider(stack).served())
        for stream in (False, True, True):
            call(stack, CHAT | {"stream": stream}, token=user.token)
        served = provider(stack).served()[before:]
        assert len(served) == 3
        expected = (
            3,
            sum(row.prompt_tokens for row in served),
            sum(row.completion_tokens for row in served),
        )
        eventually(lambda: billed(stack, user.external_id) == expected)

    @pytest.mark.parametrize("stream", [False, True])
    def test_without_usage_our_own_count_is_billed_and_equals_it(
        self, stack: Stack, stream: bool
    ) -> None:
        user = Newcomer(stack)
        call(
            stack,
            CHAT | {"stream": stream},
            token=user.token,
            headers={"x-standin-fault": "no-usage"},
        )
        served = provider(stack).served()[-1]
        expected = (1, served.prompt_tokens, served.completion_tokens)
        eventually(lambda: billed(stack, user.external_id) == expected)

    def test_a_client_that_leaves_pays_for_what_it_got(self, stack: Stack) -> None:
        user = Newcomer(stack)
        headers = {"authorization": f"Bearer {user.token}", "x-standin-fault": "slow"}
        with httpx.stream(
            "POST",
            f"{stack.url}/v1/chat/completions",
            json=CHAT | {"stream": True},
            headers=headers,
            trust_env=False,
            timeout=30,
        ) as answer:
            got = 0
            for text in answer.iter_text():
                got += text.count('"content"')
                if got > 2:
                    break
        eventually(lambda: billed(stack, user.external_id)[0] == 1)
        _, given, made = billed(stack, user.external_id)
        assert given > 0
        assert 0 < made < 1000

    def test_a_provider_that_drops_the_stream_is_billed_for_what_came(
        self, run_stack: Callable[..., Stack]
    ) -> None:
        stack = run_stack(chunk_delay_s=0.05)
        user = Newcomer(stack)
        with pytest.raises(httpx.HTTPError):
            call(
                stack,
                CHAT | {"stream": True},
                token=user.token,
                headers={"x-standin-fault": "drop-midstream"},
            )
        eventually(lambda: billed(stack, user.external_id)[0] == 1)
        assert billed(stack, user.external_id)[1] > 0

    def test_a_refusal_of_the_provider_costs_no_tokens(self, stack: Stack) -> None:
        user = Newcomer(stack)
        call(stack, token=user.token, headers={"x-standin-fault": "error-500"})
        eventually(lambda: billed(stack, user.external_id) == (1, 0, 0))


def test_envoys_answer_for_an_unreachable_provider_has_our_shape(
    run_stack: Callable[..., Stack],
) -> None:
    with socket.socket() as bound:  # and nobody listens
        bound.bind(("127.0.0.1", 0))
        stack = run_stack(attachment={"provider_port": bound.getsockname()[1]})
        answer = call(stack)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "service_unavailable")
    assert answer.headers["x-sentinel-error"] == "service_unavailable"
    assert answer.headers["x-sentinel-exchange-id"]


class TestLimit:
    def test_of_many_at_once_exactly_the_limit_is_admitted(
        self, run_stack: Callable[..., Stack]
    ) -> None:
        stack = run_stack(settings={"SENTINEL_LIMITS__REQUESTS": "20"})
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda _: call(stack), range(60)))
        assert sorted(a.status_code for a in answers) == [200] * 20 + [429] * 40
        assert len(provider(stack).requests()) == 20
        refused = next(a for a in answers if a.status_code == 429)
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.headers["x-ratelimit-remaining"] == "0"
        assert refused.headers["x-ratelimit-limit"] == "20"
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert refused.json()["sentinel"]["limit_name"] == "requests"
        with client(stack) as api, pytest.raises(openai.RateLimitError):
            api.chat.completions.create(**CHAT)  # type: ignore[call-overload]

    def test_a_refused_request_takes_nothing(self, run_stack: Callable[..., Stack]) -> None:
        stack = run_stack(settings={"SENTINEL_LIMITS__REQUESTS": "2"})
        for _ in range(5):
            assert call(stack, b"{").status_code == 400
        assert [call(stack).status_code for _ in range(3)] == [200, 200, 429]


class TestQuota:
    def test_zions_quota_is_enforced_with_what_is_in_flight(
        self, run_stack: Callable[..., Stack]
    ) -> None:
        stack = run_stack()
        zion(stack).put_user(
            ZionUser("few", "u-few", "ext-few", "few@example.com", requests=3, reset_period="DAILY")
        )
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: call(stack, token="few"), range(10)))
        assert sorted(a.status_code for a in answers) == [200] * 3 + [429] * 7
        refused = next(a for a in answers if a.status_code == 429)
        assert refused.json()["sentinel"]["limit"] == 3
        eventually(lambda: billed(stack, "ext-few")[0] == 3)

    def test_a_user_that_zion_has_no_limits_for_is_refused(
        self, run_stack: Callable[..., Stack]
    ) -> None:
        stack = run_stack()
        zion(stack).set_fault(ZionCall.LIMITS, FaultKind.ERROR_500)
        answer = call(stack)
        assert answer.status_code == 503
        assert "retry-after" in answer.headers
        assert provider(stack).requests() == []


def read_while_stopping(stack: Stack, user: Newcomer, body: dict[str, object]) -> str:
    """What a client reads of a stream during which the sidecar is told to stop."""
    started = threading.Event()

    def read() -> str:
        with httpx.stream(
            "POST",
            f"{stack.url}/v1/chat/completions",
            json=body,
            headers={"authorization": f"Bearer {user.token}", "x-standin-tokens": "40"},
            trust_env=False,
            timeout=30,
        ) as answer:
            text = ""
            for piece in answer.iter_text():
                text += piece
                started.set()
            return text

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        assert started.wait(20)
        assert stack.sidecar.stop() == 0
        return reading.result(30)


class TestStopping:
    def test_sigterm_lets_a_stream_finish_and_loses_no_record(
        self, run_stack: Callable[..., Stack]
    ) -> None:
        stack = run_stack(
            chunk_delay_s=0.05,
            settings={"SENTINEL_USAGE__REPORT_INTERVAL_SECONDS": "3600"},
        )
        user = Newcomer(stack)
        text = read_while_stopping(stack, user, CHAT | {"stream": True})
        assert text.endswith("data: [DONE]\n\n")
        served = provider(stack).served()[-1]
        assert served.complete
        assert billed(stack, user.external_id) == (
            1,
            served.prompt_tokens,
            served.completion_tokens,
        )

    def test_a_stream_that_outlives_the_grace_flows_on_without_us(
        self, run_stack: Callable[..., Stack]
    ) -> None:
        stack = run_stack(chunk_delay_s=0.1, settings={"SENTINEL_SERVER__DRAIN_SECONDS": "0.3"})
        user = Newcomer(stack)
        text = read_while_stopping(
            stack, user, CHAT | {"stream": True, "stream_options": {"include_usage": True}}
        )
        assert text.endswith("data: [DONE]\n\n")
        requests, given, made = billed(stack, user.external_id)
        assert (requests, given) == (1, provider(stack).served()[-1].prompt_tokens)
        assert 0 < made < provider(stack).served()[-1].completion_tokens

    def test_what_could_not_be_reported_is_reported_after_the_next_start(
        self, run_stack: Callable[..., Stack], work_dir: Path
    ) -> None:
        stack = run_stack(settings={"SENTINEL_USAGE__SHUTDOWN_SECONDS": "0"})
        user = Newcomer(stack)
        zion(stack).set_fault(ZionCall.BATCH, FaultKind.ERROR_500)
        assert call(stack, token=user.token).status_code == 200
        assert stack.sidecar.stop() == 0
        assert billed(stack, user.external_id) == (0, 0, 0)
        zion(stack).clear_faults()
        stack.sidecar.process.start()
        eventually(lambda: billed(stack, user.external_id)[0] == 1)


def test_the_gateway_answers_many_requests_on_one_connection(stack: Stack) -> None:
    address = urlsplit(stack.url)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ADA}\r\n"
        f"content-length: {len(BODY)}\r\n\r\n"
    ).encode()
    assert address.hostname is not None
    with socket.create_connection((address.hostname, address.port or 80), timeout=20) as link:
        link.sendall((head + BODY) * 3)
        seen = b""
        while seen.count(b"HTTP/1.1 200") < 3:
            piece = link.recv(65536)
            assert piece, seen[-500:]
            seen += piece
