"""Shadow mode: the same decisions, nothing done about them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sentinel_extproc.endpoints.contract import Plan
from sentinel_extproc.errors import LimitExceeded, Unauthenticated
from sentinel_extproc.exchange import commands as do
from sentinel_extproc.exchange import events as on
from sentinel_extproc.exchange.headers import Upstream
from sentinel_extproc.exchange.machine import Exchange
from sentinel_extproc.exchange.providers import only
from sentinel_extproc.exchange.shadow import MAX_BODY_BYTES, ShadowExchange
from sentinel_extproc.exchange.states import ProtocolViolation, State
from sentinel_extproc.identity.principal import Principal
from sentinel_extproc.limits.model import Growth, Reservation
from sentinel_extproc.tokens.model import Confidence, Estimate

ADA = Principal(external_id="ext-ada", user_id="u1", email="ada@example.org")
BODY = json.dumps(
    {"model": "gpt-4o", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
).encode()
HEADERS = [
    (":method", b"POST"),
    (":path", b"/v1/chat/completions"),
    ("authorization", b"Bearer users-own"),
    ("accept-encoding", b"gzip"),
]


class Counter:
    def feed(self, text: str) -> None: ...

    def total(self) -> int:
        return 3


def exchange(kind: type[Exchange] = ShadowExchange, **more: Any) -> Any:
    return kind(
        exchange_id="x-1",
        started_at_ms=1_000,
        choose=only(Upstream((("authorization", b"Bearer sk"),))),
        counters=lambda _model: Counter(),
        **more,
    )


def opened(machine: Exchange, *, observed: bool = False) -> tuple[do.Command, ...]:
    return machine.handle(on.RequestHeaders(HEADERS, end_of_stream=False, observed=observed))


def admitted(machine: Exchange) -> list[do.Command]:
    """Everything said up to the decision, after the headers."""
    said = [*machine.handle(on.Authenticated(ADA))]
    said += machine.handle(on.RequestBody(BODY[:20], end_of_stream=False))
    said += machine.handle(on.RequestBody(BODY[20:]))
    read = said[-1]
    assert isinstance(read, do.Read)
    assert read.body == BODY
    plan: Plan = read.endpoint.plan(read.body, read.head)
    said += machine.handle(on.Planned(plan))
    said += machine.handle(on.Counted(Estimate(9, 2, Confidence.EXACT)))
    reserve = said[-1]
    assert isinstance(reserve, do.Reserve)
    reservation = Reservation(reserve.request, reserve.request.predicted)
    said += machine.handle(on.Reserved(reservation, (("x", "1"),)))
    return said


def replies(said: Any) -> list[do.Reply]:
    return [one for one in said if isinstance(one, do.Reply)]


def unchanged(reply: do.Reply) -> bool:
    return not (reply.set_headers or reply.remove_headers or reply.metadata) and reply.body is None


def test_a_message_passes_before_it_is_looked_at() -> None:
    said = opened(exchange())
    assert isinstance(said[0], do.Reply)
    assert isinstance(said[1], do.Authenticate)
    assert said[0].mode is do.Mode.STREAM_BOTH


def test_an_admitted_exchange_changes_nothing_and_is_metered() -> None:
    machine = exchange()
    said = [*opened(machine), *admitted(machine)]
    said += machine.handle(
        on.ResponseHeaders(
            [(":status", b"200"), ("content-type", b"text/event-stream")], end_of_stream=False
        )
    )
    chunk = b'data: {"choices":[{"index":0,"delta":{"content":"a b c"}}]}\n\n'
    said += machine.handle(on.ResponseBody(chunk, end_of_stream=False))
    said += machine.handle(on.ResponseBody(b"data: [DONE]\n\n", end_of_stream=True))
    assert [reply.phase for reply in replies(said)] == [
        do.Phase.REQUEST_HEADERS,
        do.Phase.REQUEST_BODY,
        do.Phase.REQUEST_BODY,
        do.Phase.RESPONSE_HEADERS,
        do.Phase.RESPONSE_BODY,
        do.Phase.RESPONSE_BODY,
    ]
    assert all(unchanged(reply) for reply in replies(said))
    records = [one.record for one in said if isinstance(one, do.Record)]
    assert [(r.usage.input_tokens, r.usage.output_tokens) for r in records] == [(9, 3)]
    assert machine.handle(on.Recorded()) == ()


def test_a_refusal_is_a_note_and_the_request_goes_on() -> None:
    machine = exchange()
    opened(machine)
    said = machine.refuse(Unauthenticated("no such key"))
    assert [type(one) for one in said] == [do.Note]
    assert said[0].error.code == "invalid_api_key"
    for event in (
        on.RequestBody(BODY),
        on.ResponseHeaders([(":status", b"200")], end_of_stream=False),
        on.ResponseBody(b"{}", end_of_stream=True),
    ):
        (reply,) = machine.handle(event)
        assert isinstance(reply, do.Reply)
        assert unchanged(reply)


def test_a_path_that_would_be_refused_is_a_note_too() -> None:
    machine = exchange()
    headers = [(":method", b"POST"), (":path", b"/v1//chat")]
    said = machine.handle(on.RequestHeaders(headers, end_of_stream=False))
    assert [type(one) for one in said] == [do.Reply, do.Note]


def test_a_limit_that_would_cut_the_answer_is_noted_once_and_metering_goes_on() -> None:
    machine = exchange()
    opened(machine)
    admitted(machine)
    machine.handle(
        on.ResponseHeaders(
            [(":status", b"200"), ("content-type", b"text/event-stream")], end_of_stream=False
        )
    )
    event = {"choices": [{"index": 0, "delta": {"content": "word " * 200}}]}
    notes = 0
    for _ in range(2):
        said = machine.handle(
            on.ResponseBody(b"data: %s\n\n" % json.dumps(event).encode(), end_of_stream=False)
        )
        assert any(isinstance(one, do.Grow) for one in said)
        said = machine.handle(on.Grown(Growth.CUT))
        notes += sum(isinstance(one, do.Note) for one in said)
        assert not replies(said)
        assert machine.state is State.ANSWERING
    assert notes == 1


def test_an_eviction_ends_nothing() -> None:
    machine = exchange()
    opened(machine)
    admitted(machine)
    assert machine.handle(on.Evicted()) == ()
    said = machine.handle(on.ResponseHeaders([(":status", b"200")], end_of_stream=False))
    assert not any(isinstance(one, do.Respond | do.Note) for one in said)


def test_an_observer_isnt_answered() -> None:
    machine = exchange()
    said = [*opened(machine, observed=True), *admitted(machine)]
    said += machine.handle(on.ResponseHeaders([(":status", b"200")], end_of_stream=False))
    said += machine.handle(on.ResponseBody(b"{}", end_of_stream=True))
    assert not replies(said)
    assert any(isinstance(one, do.Record) for one in said)


def test_who_enforces_refuses_to_be_observed() -> None:
    with pytest.raises(ProtocolViolation, match=r"server\.mode"):
        opened(exchange(Exchange), observed=True)


def test_an_order_that_enforcing_forbids_gives_up_quietly() -> None:
    machine = exchange()
    opened(machine)
    machine.handle(on.Authenticated(ADA))
    said = machine.handle(on.ResponseHeaders([(":status", b"200")], end_of_stream=False))
    assert [type(one) for one in said] == [do.Reply]
    assert machine.state is State.DONE


def test_a_body_too_long_to_be_gathered_passes() -> None:
    machine = exchange()
    opened(machine)
    machine.handle(on.Authenticated(ADA))
    piece = on.RequestBody(b"x" * (MAX_BODY_BYTES // 2 + 1), end_of_stream=False)
    for _ in range(3):
        (reply,) = machine.handle(piece)
        assert unchanged(reply)
    assert machine.state is State.DONE


def test_with_swap_the_admitted_get_the_key_and_the_refused_keep_their_token() -> None:
    machine = exchange(swap=True)
    assert not replies(opened(machine))
    (reply,) = replies(machine.handle(on.Authenticated(ADA)))
    assert dict(reply.set_headers) == {"authorization": b"Bearer sk"}
    assert reply.mode is do.Mode.STREAM_BOTH
    refused = exchange(swap=True)
    opened(refused)
    said = refused.refuse(LimitExceeded("full"))
    assert [type(one) for one in said] == [do.Reply, do.Note]
    assert unchanged(said[0])
