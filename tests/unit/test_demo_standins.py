"""The stand-ins over real HTTP, each in its own thread."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from click.testing import CliRunner

from sentinel_extproc.demo import anthropic_standin, openai_standin, zion_standin
from sentinel_extproc.demo.hosting import HostedApp, serve_app
from sentinel_extproc.demo.openai_standin import OpenAIStandIn
from sentinel_extproc.demo.process import ManagedProcess, StartError
from sentinel_extproc.demo.redis import free_port
from sentinel_extproc.demo.zion_standin import DEMO_USERS, ZionStandIn

KEY = {"x-api-key": "zion-key"}
ITEM = {"email": "ada@example.com", "aiRequests": 1, "idempotencyKey": "k"}


class WordPerToken:
    """A tokenizer without data files: one token per word."""

    def pieces(self, model: str, text: str) -> list[bytes]:
        return [word.encode() + b" " for word in text.split()]


@pytest.fixture
def provider() -> OpenAIStandIn:
    return OpenAIStandIn(provider_key="sk-provider", slow_s=0.001, counter=WordPerToken())


@pytest.fixture
def provider_url(provider: OpenAIStandIn) -> Iterator[str]:
    with serve_app(provider.app, name="openai") as hosted:
        yield hosted.url


@pytest.fixture
def client(provider_url: str) -> Iterator[openai.OpenAI]:
    http = openai.DefaultHttpxClient(trust_env=False)
    with openai.OpenAI(
        api_key="sk-provider", base_url=provider_url + "/v1", max_retries=0, http_client=http
    ) as client:
        yield client


@pytest.fixture
def zion() -> ZionStandIn:
    return ZionStandIn(api_key="zion-key", users=DEMO_USERS)


@pytest.fixture
def zion_app(zion: ZionStandIn) -> Iterator[HostedApp]:
    with serve_app(zion.app, name="zion") as hosted:
        yield hosted


@pytest.fixture
def http(zion_app: HostedApp) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=zion_app.url, trust_env=False) as http:
        yield http


def ask(client: openai.OpenAI, **options: object) -> openai.types.chat.ChatCompletion:
    call: dict[str, object] = {
        "model": "gpt-4o-mini",
        "messages": [{"role": "user", "content": "one two three"}],
    }
    return client.chat.completions.create(**call | options)  # type: ignore[call-overload, no-any-return]


def test_a_chat_is_answered_and_noted(client: openai.OpenAI, provider: OpenAIStandIn) -> None:
    answer = ask(client)
    assert answer.model == "gpt-4o-mini-2024-07-18"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 3 + 4 + 3
    (served,) = provider.served()
    assert (served.id, served.complete) == (answer.id, True)
    assert served.completion_tokens == answer.usage.completion_tokens
    (seen,) = provider.requests()
    assert seen.path == "/v1/chat/completions"
    assert seen.header("authorization") == "Bearer sk-provider"
    assert "one two three" in seen.body


def test_a_cap_ends_the_answer(client: openai.OpenAI) -> None:
    answer = ask(client, max_completion_tokens=2)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 2


def test_a_stream_carries_usage_only_when_asked(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="gpt-4o",
        messages=[{"role": "user", "content": "hello"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    usages = [chunk.usage for chunk in stream]
    assert usages[:-1] == [None] * (len(usages) - 1)
    assert usages[-1] is not None


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/v1/nonsense"), ("GET", "/"), ("PATCH", "/v1/models"), ("PURGE", "/v1/x/y")],
)
def test_unknown_paths_are_openais_404_under_any_method(
    provider_url: str, provider: OpenAIStandIn, method: str, path: str
) -> None:
    headers = {"authorization": "Bearer sk-provider"}
    answer = httpx.request(method, provider_url + path, headers=headers, trust_env=False)
    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert f"({method} {path})" in answer.json()["error"]["message"]
    (seen,) = provider.requests()
    assert (seen.method, seen.path) == (method, path)
    assert httpx.request(method, provider_url + path, trust_env=False).status_code == 401


def test_every_key_but_the_providers_is_refused(provider_url: str, provider: OpenAIStandIn) -> None:
    for value in ("Bearer sk-user", "", "sk-provider"):
        answer = httpx.post(
            provider_url + "/v1/chat/completions", headers={"authorization": value}, json={}
        )
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"
    assert [seen.authorized for seen in provider.requests()] == [False] * 3
    assert provider.served() == []


@pytest.mark.parametrize(
    ("model", "error"),
    [
        ("standin-error-500", openai.InternalServerError),
        ("standin-error-429", openai.RateLimitError),
        ("standin-drop-midstream", openai.APIConnectionError),
    ],
)
def test_faults_by_model_name(
    client: openai.OpenAI, model: str, error: type[openai.OpenAIError]
) -> None:
    with pytest.raises(error):
        ask(client, model=model)


def test_a_dropped_stream_is_noted_with_what_was_sent(
    client: openai.OpenAI, provider: OpenAIStandIn
) -> None:
    stream = client.chat.completions.create(
        model="gpt-4o",
        messages=[{"role": "user", "content": "hello"}],
        stream=True,
        extra_headers={"x-standin-fault": "drop-midstream", "x-standin-tokens": "10"},
    )
    with pytest.raises((httpx.TransportError, openai.APIConnectionError)):
        list(stream)
    (served,) = provider.served()
    assert not served.complete
    assert served.completion_tokens == 5


def test_no_usage_and_garbage(client: openai.OpenAI, provider_url: str) -> None:
    assert ask(client, model="standin-no-usage").usage is None
    answer = httpx.post(
        provider_url + "/v1/chat/completions",
        headers={"authorization": "Bearer sk-provider", "x-standin-fault": "garbage"},
        json={"model": "gpt-4o", "messages": [], "stream": True},
    )
    assert b"{broken" in answer.content
    assert answer.content.endswith(b"data: [DONE]\n\n")


def test_it_compresses_for_who_accepts_it(provider_url: str) -> None:
    for stream in (True, False):
        answer = httpx.post(
            provider_url + "/v1/chat/completions",
            headers={"authorization": "Bearer sk-provider", "accept-encoding": "gzip"},
            json={"model": "gpt-4o", "messages": [], "stream": stream},
        )
        assert answer.headers["content-encoding"] == "gzip"
        assert "stand-in" in answer.text


def test_what_it_saw_and_served_can_be_read(client: openai.OpenAI, provider_url: str) -> None:
    ask(client)
    client.models.list()
    seen = httpx.get(provider_url + "/_standin/requests").json()
    assert [request["path"] for request in seen] == ["/v1/chat/completions", "/v1/models"]
    (served,) = httpx.get(provider_url + "/_standin/served").json()
    assert served["model_requested"] == "gpt-4o-mini"


def test_a_text_completion_is_answered_for_every_prompt(
    client: openai.OpenAI, provider: OpenAIStandIn
) -> None:
    answer = client.completions.create(
        model="gpt-3.5-turbo-instruct", prompt=["one two", "three"], n=2, max_tokens=3
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.choices[0].text == "You asked: “one "
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 12)
    tokens = client.completions.create(model="gpt-3.5-turbo-instruct", prompt=[1, 2, 3, 4])
    assert tokens.usage is not None
    assert (tokens.usage.prompt_tokens, tokens.usage.completion_tokens) == (4, 16)
    assert [s.completion_tokens for s in provider.served()] == [12, 16]


def test_a_streamed_text_completion_says_the_same(client: openai.OpenAI) -> None:
    call: dict[str, Any] = {"model": "m", "prompt": "hello", "max_tokens": 100}
    whole = client.completions.create(**call)
    chunks = list(
        client.completions.create(**call, stream=True, stream_options={"include_usage": True})
    )
    assert "".join(c.choices[0].text for c in chunks[:-1]) == whole.choices[0].text
    assert [c.choices[0].finish_reason for c in chunks[:-1] if c.choices[0].finish_reason] == [
        "stop"
    ]
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])


@pytest.mark.parametrize(("cap", "status"), [(100, "completed"), (16, "incomplete")])
def test_a_response_is_the_same_whole_and_streamed(
    client: openai.OpenAI, provider: OpenAIStandIn, cap: int, status: str
) -> None:
    call: dict[str, Any] = {
        "model": "gpt-4.1",
        "instructions": "be brief",
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "one two three"}]}],
        "max_output_tokens": cap,
    }
    whole = client.responses.create(**call)
    assert (whole.model, whole.status) == ("gpt-4.1-2025-04-14", status)
    assert whole.usage is not None
    assert whole.usage.input_tokens == (4 + 2) + (4 + 3) + 3
    assert whole.usage.total_tokens == whole.usage.input_tokens + whole.usage.output_tokens
    events = list(client.responses.create(**call, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        f"response.{status}",
    ]
    deltas = [e.delta for e in events if e.type == "response.output_text.delta"]
    assert "".join(deltas) == whole.output_text
    last = events[-1]
    assert last.type in ("response.completed", "response.incomplete")
    assert last.response.usage == whole.usage
    first, second = provider.served()
    assert (first.streamed, second.streamed, second.complete) == (False, True, True)
    assert first.completion_tokens == second.completion_tokens == whole.usage.output_tokens


def test_a_stream_of_a_response_ends_without_done(provider_url: str) -> None:
    answer = httpx.post(
        provider_url + "/v1/responses",
        headers={"authorization": "Bearer sk-provider", "x-standin-fault": "no-usage"},
        json={"model": "m", "input": "hi", "stream": True},
    )
    assert answer.text.startswith("event: response.created\ndata: {")
    assert "[DONE]" not in answer.text
    assert '"output_tokens"' not in answer.text


def test_embeddings_are_vectors_of_length_one(
    client: openai.OpenAI, provider: OpenAIStandIn
) -> None:
    answer = client.embeddings.create(model="text-embedding-3-large", input=["one two", "three"])
    first, second = (item.embedding for item in answer.data)
    assert len(first) == 3072
    assert sum(component**2 for component in first) == pytest.approx(1, rel=1e-4)
    assert first != second
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 3
    short = client.embeddings.create(
        model="text-embedding-3-small", input="one two", dimensions=8, encoding_format="float"
    )
    assert len(short.data[0].embedding) == 8
    tokens = client.embeddings.create(model="text-embedding-3-small", input=[[1, 2], [3]])
    assert (len(tokens.data), tokens.usage.prompt_tokens) == (2, 3)
    assert [(s.prompt_tokens, s.completion_tokens) for s in provider.served()] == [
        (3, 0),
        (2, 0),
        (3, 0),
    ]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("chat/completions", {"messages": "hi"}, "messages"),
        ("completions", {"prompt": {}}, "prompt"),
        ("completions", {"prompt": ["a", 1]}, "prompt"),
        ("responses", {}, "input"),
        ("embeddings", {"input": []}, "input"),
        ("embeddings", {"input": [[1.5]]}, "input"),
    ],
)
def test_what_is_missing_is_a_400_that_names_it(
    provider_url: str, path: str, body: dict[str, Any], param: str
) -> None:
    answer = httpx.post(
        f"{provider_url}/v1/{path}",
        headers={"authorization": "Bearer sk-provider"},
        json={"model": "m"} | body,
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("completions", {"prompt": "hi"}),
        ("responses", {"input": "hi"}),
        ("embeddings", {"input": "hi"}),
    ],
)
def test_every_api_fails_on_demand(
    provider_url: str, provider: OpenAIStandIn, path: str, body: dict[str, Any]
) -> None:
    def ask_with(fault: str) -> httpx.Response:
        return httpx.post(
            f"{provider_url}/v1/{path}",
            headers={"authorization": "Bearer sk-provider", "x-standin-fault": fault},
            json={"model": "m"} | body,
        )

    assert ask_with("error-500").status_code == 500
    assert ask_with("gzip").headers["content-encoding"] == "gzip"
    assert not ask_with("no-usage").json().get("usage")
    with pytest.raises(httpx.TransportError):
        ask_with("drop-midstream")
    assert [served.complete for served in provider.served()] == [True, True, False]


def test_zion_knows_its_users(http: httpx.Client) -> None:
    me = http.get("/api/v1/users/me", headers={"authorization": "Bearer demo-ada"}).json()
    assert me["success"] is True
    assert me["data"]["externalId"] == "ext-ada"
    assert http.get("/api/v1/users/me", headers={"authorization": "Bearer x"}).status_code == 401
    limits = http.get("/api/v1/limits/external/ext-ada", headers=KEY).json()["data"]["limits"]
    assert limits[0]["aiRequests"] == {"limit": 10_000, "used": 0, "remaining": 10_000}
    assert http.get("/api/v1/limits/external/ext-no", headers=KEY).status_code == 404
    assert http.get("/api/v1/limits/external/ext-ada").status_code == 401


def test_zion_takes_increments_one_by_one_and_in_batches(
    http: httpx.Client, zion: ZionStandIn
) -> None:
    one = http.post("/api/v1/usage/external/increment", headers=KEY, json=ITEM)
    assert one.json()["data"]["canUse"] is True
    items = [ITEM | {"idempotencyKey": "k2"}, ITEM | {"email": "nobody"}]
    batch = http.post(
        "/api/v1/usage/external/batch-increment",
        headers=KEY | {"idempotency-key": "b1"},
        json={"increments": items},
    )
    assert batch.status_code == 200
    assert (batch.json()["data"]["processed"], batch.json()["data"]["failed"]) == (1, 1)
    assert [(entry.key, entry.batch_key) for entry in zion.ledger()] == [("k", None), ("k2", "b1")]
    ledger = http.get("/_standin/ledger").json()
    assert [entry["requests"] for entry in ledger["entries"]] == [1, 1]


@pytest.mark.parametrize(("count", "status"), [(0, 400), (1000, 200), (1001, 413)])
def test_zion_bounds_a_batch(http: httpx.Client, count: int, status: int) -> None:
    answer = http.post(
        "/api/v1/usage/external/batch-increment",
        headers=KEY,
        json={"increments": [{"email": "ada@example.com", "aiRequests": 1}] * count},
    )
    assert answer.status_code == status


def post_batch(http: httpx.Client, email: str = "ada@example.com") -> httpx.Response:
    return http.post(
        "/api/v1/usage/external/batch-increment",
        headers=KEY,
        json={"increments": [ITEM | {"email": email}]},
    )


def test_zion_can_commit_and_then_drop(http: httpx.Client, zion: ZionStandIn) -> None:
    zion.set_fault("batch", "commit_then_drop", times=1)
    with pytest.raises(httpx.TransportError):
        post_batch(http)
    assert post_batch(http).status_code == 200
    assert len(zion.ledger()) == 1
    assert zion.duplicates == 1


def test_zion_can_drop_without_committing(http: httpx.Client, zion: ZionStandIn) -> None:
    zion.set_fault("batch", "drop", times=1)
    with pytest.raises(httpx.TransportError):
        post_batch(http)
    assert zion.ledger() == []


def test_zion_can_ask_to_wait(http: httpx.Client) -> None:
    url = "/_standin/faults/batch"
    assert http.put(url, json={"kind": "rate_limited", "retryAfterS": 7}).status_code == 204
    assert post_batch(http).headers["retry-after"] == "7"
    http.put(url, json={"kind": "rate_limited", "retryAfterS": 7, "retryAfterDate": True})
    answer = post_batch(http)
    assert answer.status_code == 429
    assert parsedate_to_datetime(answer.headers["retry-after"]).tzinfo is not None
    http.delete("/_standin/faults")
    assert post_batch(http).status_code == 200


def test_zion_can_break_in_other_ways(http: httpx.Client, zion: ZionStandIn) -> None:
    zion.set_fault("me", "error_500", times=1)
    assert http.get("/api/v1/users/me").status_code == 500
    zion.set_fault("limits", "malformed", times=1)
    with pytest.raises(ValueError, match=r"."):
        http.get("/api/v1/limits/external/ext-ada").json()
    zion.set_fault("limits", "oversized", times=1)
    assert len(http.get("/api/v1/limits/external/ext-ada").content) > 2**20
    for kind in ("hang", "trickle"):
        zion.set_fault("me", kind, times=1)
        with (
            pytest.raises(httpx.ReadTimeout),
            http.stream("GET", "/api/v1/users/me", timeout=0.1) as r,
        ):
            r.read()


def test_poison_fails_only_batches_with_that_user(http: httpx.Client, zion: ZionStandIn) -> None:
    zion.set_fault("batch", "poison", email="bo@example.com")
    assert post_batch(http, "bo@example.com").status_code == 500
    assert post_batch(http, "ada@example.com").status_code == 200


def test_faults_and_users_are_checked(http: httpx.Client) -> None:
    assert http.put("/_standin/faults/nope", json={"kind": "drop"}).status_code == 400
    assert http.put("/_standin/faults/me", json={"kind": "nope"}).status_code == 400
    assert http.put("/_standin/users", json={"token": "t"}).status_code == 400
    user = {"token": "t", "id": "u", "external_id": None, "email": "e"}
    assert http.put("/_standin/users", json=user).status_code == 204
    me = http.get("/api/v1/users/me", headers={"authorization": "Bearer t"})
    assert "externalId" not in me.json()["data"]
    http.delete("/_standin/users/t")
    assert http.get("/api/v1/users/me", headers={"authorization": "Bearer t"}).status_code == 401


def test_a_port_in_use_is_a_clear_error(zion_app: HostedApp, zion: ZionStandIn) -> None:
    with pytest.raises(StartError, match=r"second could not listen on 127\.0\.0\.1"):
        serve_app(zion.app, name="second", port=zion_app.port)


@pytest.mark.parametrize(
    ("module", "variable", "path"),
    [
        ("openai_standin", "OPENAI_API_KEY", "/_standin/served"),
        ("zion_standin", "ZION_API_KEY", "/_standin/ledger"),
    ],
)
def test_each_runs_as_a_command_of_its_own(
    tmp_path: Path, module: str, variable: str, path: str
) -> None:
    port = free_port()
    process = ManagedProcess(
        [sys.executable, "-m", f"sentinel_extproc.demo.{module}", "--port", str(port)],
        name=module,
        log_path=tmp_path / "log",
        env=os.environ | {variable: "key"},
    )

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    with process:
        process.wait_until(answers, what="it listened", timeout_s=30)
        url = f"http://127.0.0.1:{port}{path}"
        assert httpx.get(url, trust_env=False).status_code == 200
    assert process.exit_code in {0, -signal.SIGTERM}


@pytest.mark.parametrize(
    ("module", "variable"),
    [
        (anthropic_standin, "ANTHROPIC_API_KEY"),
        (openai_standin, "OPENAI_API_KEY"),
        (zion_standin, "ZION_API_KEY"),
    ],
)
def test_a_stand_in_serves_as_a_command_with_the_key_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, module: Any, variable: str
) -> None:
    served: list[Any] = []
    monkeypatch.setattr("uvicorn.Server.run", lambda server: served.append(server.config))
    monkeypatch.delenv(variable, raising=False)
    result = CliRunner().invoke(module.main, [])
    assert (result.exit_code, served) == (2, [])
    result = CliRunner().invoke(module.main, ["--port", "1234"], env={variable: "some-key"})
    assert result.exit_code == 0, result.output
    assert [config.port for config in served] == [1234]
    assert variable in CliRunner().invoke(module.main, ["--help"]).output
