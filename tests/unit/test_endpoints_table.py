"""The path table: which rules govern what, and which paths are refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sentinel_extproc.endpoints.contract import Head
from sentinel_extproc.endpoints.table import CHAT, ENDPOINTS, MODELS, OTHER, match
from sentinel_extproc.errors import Forbidden, InvalidRequest, NotFound


@pytest.mark.parametrize(
    ("method", "target", "endpoint"),
    [
        ("POST", "/v1/chat/completions", CHAT),
        ("POST", "/v1/chat/completions?x=//%2e", CHAT),
        ("GET", "/v1/models", MODELS),
        ("GET", "/v1/models/gpt-4o", MODELS),
        ("GET", "/v1/models/meta-llama%2FLlama-3", MODELS),
        ("HEAD", "/v1/models/a%2fb/c", MODELS),
        ("POST", "/v1/models", OTHER),
        ("POST", "/v1/chat/completions/", OTHER),
        ("POST", "/v1/Chat/Completions", OTHER),
        ("POST", "/v1/chat%20completions", OTHER),
        ("POST", "/v1/modelsx", OTHER),
        ("post", "/v1/chat/completions", OTHER),
        ("DELETE", "/v1/models/ft:x", OTHER),
        ("POST", "/v1/", OTHER),
        ("PUT", "/v1/files/f", OTHER),
        ("POST", "/v1/responses/", OTHER),
        ("POST", "/v1/responses/resp_1/cancel/x", OTHER),
        ("POST", "/v1/messages/batches", OTHER),
    ],
)
def test_rules(method: str, target: str, endpoint: object) -> None:
    assert match(method, target).endpoint is endpoint


@pytest.mark.parametrize(
    ("method", "target", "name"),
    [
        ("POST", "/v1/completions", "completions"),
        ("POST", "/v1/embeddings", "embeddings"),
        ("POST", "/v1/responses", "responses"),
        ("POST", "/v1/responses/compact", "responses"),
        ("POST", "/v1/responses/input_tokens", "responses.input_tokens"),
        ("GET", "/v1/responses/resp_1?stream=true", "stored"),
        ("POST", "/v1/responses/resp_1/cancel", "stored"),
        ("DELETE", "/v1/responses/resp_1", "stored"),
        ("GET", "/v1/chat/completions", "stored"),
        ("GET", "/v1/chat/completions/c-1", "stored"),
        ("POST", "/v1/moderations", "moderations"),
        ("POST", "/v1/images/generations", "images.generations"),
        ("POST", "/v1/images/edits", "images.edits"),
        ("POST", "/v1/images/variations", "images.variations"),
        ("POST", "/v1/audio/speech", "audio.speech"),
        ("POST", "/v1/audio/transcriptions", "audio.transcriptions"),
        ("POST", "/v1/audio/translations", "audio.translations"),
        ("POST", "/v1/messages", "messages"),
        ("POST", "/v1/messages/count_tokens", "messages.count_tokens"),
        ("POST", "/v1/files", "files"),
        ("GET", "/v1/files/f/content", "files"),
        ("POST", "/v1/uploads/u/parts", "files"),
        ("POST", "/v1/batches", "batches"),
        ("GET", "/v1/batches/b", "batches"),
        ("POST", "/v1/batches/b/cancel", "batches"),
        ("POST", "/v1/realtime/client_secrets", "realtime.direct"),
        ("POST", "/v1/realtime/sessions/", "realtime.direct"),
        ("POST", "/v1/realtime/calls/c/accept", "realtime.direct"),
    ],
)
def test_names(method: str, target: str, name: str) -> None:
    assert match(method, target).endpoint.name == name


def test_the_documented_table_is_the_table_of_endpoints() -> None:
    text = Path(__file__).parents[2].joinpath("docs/accounting.md").read_text()
    rows = re.findall(r"^\| `([a-z_.]+)` \|", text, re.MULTILINE)
    assert sorted(rows) == sorted(endpoint.name for endpoint in ENDPOINTS)


@pytest.mark.parametrize("target", ["/v1/realtime/client_secrets", "/v1/realtime/calls"])
def test_no_key_is_handed_out_that_works_past_the_gateway(target: str) -> None:
    endpoint = match("POST", target).endpoint
    with pytest.raises(Forbidden):
        endpoint.plan_head(Head(target))


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "/v1/models/a%2Fb"),
        ("DELETE", "/v1/models/a%2Fb"),
        ("GET", "/v1/files/a%2Fb"),
        ("GET", "/v1/models%2Fa"),
        ("GET", "/v1/models/%2Fa"),
        ("GET", "/v1/models/..%2Ffiles"),
        ("GET", "/v1/models/a%2F..%2F..%2Ffiles"),
        ("GET", "/v1/models/a%2F%2e%2e/b"),
        ("GET", "/v1/models/a%252Fb"),
        ("GET", "/v1/models/a%5Cb"),
    ],
)
def test_an_escaped_slash_is_taken_in_a_models_name_only(method: str, target: str) -> None:
    with pytest.raises(InvalidRequest):
        match(method, target)


@pytest.mark.parametrize(
    "target",
    [
        "//v1/chat/completions",
        "/v1//chat/completions",
        "/v1/./chat/completions",
        "/v1/x/../chat/completions",
        "/v1/..",
        "/v1/%2e%2E/x",
        "/v1/chat%2Fcompletions",
        "/v1/chat%5ccompletions",
        "/v1/chat\\completions",
        "/v1/chat;a=b/completions",
        "/v1/chat%3bx/completions",
        "/v1/chat%252fcompletions",
        "/v1/a%00",
        "/v1/a b",
        "/v1/é",
        "/v1/\x7f",
        "/v1/" + "a" * 9000,
    ],
)
def test_paths_that_can_be_read_in_two_ways_are_refused(target: str) -> None:
    with pytest.raises(InvalidRequest):
        match("POST", target)


@pytest.mark.parametrize("target", ["/", "", "*", "/v1", "/v2/chat/completions", "/V1/chat"])
def test_everything_else_is_not_ours(target: str) -> None:
    with pytest.raises(NotFound):
        match("POST", target)


def test_another_prefix() -> None:
    assert match("POST", "/llm/chat/completions", prefix="/llm/").endpoint is CHAT
    with pytest.raises(NotFound):
        match("POST", "/v1/chat/completions", prefix="/llm/")
