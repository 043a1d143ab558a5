"""Refusals of Anthropic-style calls, in the envelope that its clients parse."""

from __future__ import annotations

import json

import pytest

from sentinel_extproc.endpoints.anthropic_errors import anthropic_error_body
from sentinel_extproc.endpoints.table import match
from sentinel_extproc.errors import (
    Forbidden,
    InvalidRequest,
    LimitExceeded,
    NotFound,
    PayloadTooLarge,
    PromptTooLarge,
    SentinelError,
    Unauthenticated,
    Unavailable,
)
from sentinel_extproc.exchange import commands as do
from sentinel_extproc.exchange import events as on
from sentinel_extproc.exchange.headers import Upstream
from sentinel_extproc.exchange.machine import Exchange
from sentinel_extproc.exchange.providers import only


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InvalidRequest("no"), "invalid_request_error"),
        (PromptTooLarge("no"), "invalid_request_error"),
        (Unauthenticated("no"), "authentication_error"),
        (Forbidden("no"), "permission_error"),
        (NotFound("no"), "not_found_error"),
        (PayloadTooLarge("no"), "request_too_large"),
        (LimitExceeded("no"), "rate_limit_error"),
        (Unavailable("no"), "overloaded_error"),
        (SentinelError("no"), "api_error"),
    ],
)
def test_every_failure_has_anthropics_type(error: SentinelError, kind: str) -> None:
    answer = json.loads(anthropic_error_body(error))
    assert answer["type"] == "error"
    assert answer["error"] == {"type": kind, "message": "no"}
    assert answer["sentinel"] == {"code": error.code}


def test_our_own_facts_stay_beside_it() -> None:
    error = LimitExceeded("no", code="insufficient_quota", details={"limit": "spend"})
    found = json.loads(anthropic_error_body(error))["sentinel"]
    assert found == {"code": "insufficient_quota", "limit": "spend"}


@pytest.mark.parametrize(
    ("path", "anthropic"),
    [
        ("/v1/messages", True),
        ("/v1/messages/count_tokens", True),
        ("/v1/chat/completions", False),
        ("/v1/other", False),
        ("/elsewhere", False),
    ],
)
def test_an_exchange_answers_in_the_shape_of_the_api_that_was_called(
    path: str, anthropic: bool
) -> None:
    machine = Exchange(
        exchange_id="x",
        started_at_ms=0,
        choose=only(Upstream(())),
        counters=lambda _: None,  # type: ignore[arg-type, return-value]
    )
    head = [(":method", b"POST"), (":path", path.encode())]
    (respond,) = machine.handle(on.RequestHeaders(head, False))
    assert isinstance(respond, do.Respond)
    assert ("type" in json.loads(respond.body)) is anthropic
    assert json.loads(respond.body)["error"]["message"] == respond.error.message


def test_a_stream_is_ended_in_the_same_envelope() -> None:
    event = match("POST", "/v1/messages").endpoint.cut("spent")
    data = json.loads(event.partition(b"data: ")[2])
    assert data == {"type": "error", "error": {"type": "rate_limit_error", "message": "spent"}}
