"""The path table: which rules govern what, and which paths are refused."""

from __future__ import annotations

import pytest

from sentinel_extproc.endpoints.table import CHAT, MODELS, OTHER, match
from sentinel_extproc.errors import InvalidRequest, NotFound


@pytest.mark.parametrize(
    ("method", "target", "endpoint"),
    [
        ("POST", "/v1/chat/completions", CHAT),
        ("POST", "/v1/chat/completions?x=//%2e", CHAT),
        ("GET", "/v1/models", MODELS),
        ("GET", "/v1/models/gpt-4o", MODELS),
        ("GET", "/v1/chat/completions", OTHER),
        ("POST", "/v1/models", OTHER),
        ("POST", "/v1/chat/completions/", OTHER),
        ("POST", "/v1/Chat/Completions", OTHER),
        ("POST", "/v1/chat%20completions", OTHER),
        ("POST", "/v1/modelsx", OTHER),
        ("post", "/v1/chat/completions", OTHER),
        ("DELETE", "/v1/models/ft:x", OTHER),
        ("POST", "/v1/", OTHER),
    ],
)
def test_rules(method: str, target: str, endpoint: object) -> None:
    assert match(method, target).endpoint is endpoint


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
