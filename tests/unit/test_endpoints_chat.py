"""Chat completions: what is reserved and what is changed."""

from __future__ import annotations

import json

import pytest

from sentinel_extproc.endpoints.chat import ChatCompletions

CHAT = ChatCompletions()
MESSAGES = [{"role": "user", "content": "x"}]


def encode(**fields: object) -> bytes:
    return json.dumps({"model": "gpt-4o", "messages": MESSAGES} | fields).encode()


@pytest.mark.parametrize(
    ("fields", "cap"),
    [
        ({}, None),
        ({"max_tokens": 10}, 10),
        ({"max_completion_tokens": 10}, 10),
        ({"max_tokens": 10, "max_completion_tokens": 30}, 30),
        ({"max_tokens": 30, "max_completion_tokens": 10, "n": 4}, 120),
        ({"max_tokens": None, "n": None}, None),
        ({"n": 4}, None),
    ],
)
def test_the_largest_cap_times_n_is_reserved(fields: dict[str, object], cap: int | None) -> None:
    assert CHAT.plan(encode(**fields)).output_cap == cap


def test_an_unstreamed_request_is_forwarded_as_it_came() -> None:
    plan = CHAT.plan(encode())
    assert plan.upstream_body is None
    assert not plan.hide_usage


def test_a_request_that_asks_for_usage_is_forwarded_as_it_came() -> None:
    plan = CHAT.plan(encode(stream=True, stream_options={"include_usage": True}))
    assert plan.upstream_body is None
    assert not plan.hide_usage


@pytest.mark.parametrize(
    "options",
    [None, {}, {"include_usage": False}, {"include_usage": None, "include_obfuscation": False}],
)
def test_usage_is_asked_for_and_other_options_are_kept(options: dict[str, object] | None) -> None:
    fields = {"stream": True, "stream_options": options, "note": "\ud800 é"}
    plan = CHAT.plan(encode(**fields))
    assert plan.hide_usage
    assert plan.upstream_body is not None
    assert json.loads(plan.upstream_body) == json.loads(encode(**fields)) | {
        "stream_options": (options or {}) | {"include_usage": True}
    }


def test_asking_leaves_every_other_byte_as_the_client_wrote_it() -> None:
    body = b' \n{ "stream" : true, "model":"m",  "x": 1.0e0, "messages":[{"content":"\\u00e9"}]}\n'
    plan = CHAT.plan(body)
    assert plan.upstream_body is not None
    assert plan.upstream_body.endswith(body.lstrip()[1:])
    assert json.loads(plan.upstream_body) == json.loads(body) | {
        "stream_options": {"include_usage": True}
    }
