"""Playbooks of the exchange: events in, commands out."""

from __future__ import annotations

import json

import pytest

from sentinel_extproc.endpoints.table import CHAT as CHAT_RULES
from sentinel_extproc.errors import (
    InvalidRequest,
    LimitExceeded,
    NotFound,
    SentinelError,
    Unauthenticated,
    Unavailable,
)
from sentinel_extproc.exchange import commands as do
from sentinel_extproc.exchange import events as on
from sentinel_extproc.exchange.answer import GROW_EVERY_CHARS
from sentinel_extproc.exchange.expected_output import FixedOutput, LearnedOutput, OutputExpectation
from sentinel_extproc.exchange.headers import Upstream
from sentinel_extproc.exchange.machine import Exchange
from sentinel_extproc.exchange.native import BytesPerToken
from sentinel_extproc.exchange.providers import only
from sentinel_extproc.exchange.states import ProtocolViolation, State
from sentinel_extproc.identity.principal import Principal
from sentinel_extproc.limits.model import Growth, Quantities, Reservation
from sentinel_extproc.tokens.model import Confidence, Estimate
from sentinel_extproc.usage.record import Outcome, Provenance, TokenUsage

ADA = Principal(external_id="ext-ada", user_id="u1", email="ada@example.org", plan="pro")
CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}


class WordCounter:
    """Counts words, so that expected numbers can be read off the test."""

    def __init__(self) -> None:
        self.text = ""

    def feed(self, text: str) -> None:
        self.text += text

    def total(self) -> int:
        return len(self.text.split())


def exchange(
    expected_output: OutputExpectation = FixedOutput(500),  # noqa: B008 - stateless
    *,
    credentials: tuple[tuple[str, bytes], ...] = (("authorization", b"Bearer sk-provider"),),
    tell_identity: bool = False,
    max_body_bytes: int | None = None,
    native: BytesPerToken | None = None,
    prefix: str = "/v1/",
) -> Exchange:
    return Exchange(
        exchange_id="x-1",
        started_at_ms=1_000,
        choose=only(Upstream(credentials, tell_identity), prefix=prefix),
        counters=lambda _model: WordCounter(),
        expected_output=expected_output,
        max_body_bytes=max_body_bytes,
        native=native,
    )


def request_headers(
    *extra: tuple[str, bytes],
    method: bytes = b"POST",
    path: bytes = b"/v1/chat/completions",
    token: bytes = b"Bearer user-token",
    end: bool = False,
) -> on.RequestHeaders:
    lines = [(":method", method), (":path", path), ("authorization", token), *extra]
    return on.RequestHeaders(lines, end)


def response_headers(
    status: bytes = b"200", kind: bytes = b"application/json", *extra: tuple[str, bytes]
) -> on.ResponseHeaders:
    return on.ResponseHeaders([(":status", status), ("content-type", kind), *extra], False)


def body(**change: object) -> on.RequestBody:
    return on.RequestBody(json.dumps(CHAT | change).encode())


def counted(tokens: int = 9) -> on.Counted:
    return on.Counted(Estimate(tokens, 2, Confidence.EXACT))


def to_reserve(machine: Exchange, request: on.RequestBody | None = None) -> do.Reserve:
    machine.handle(request_headers())
    machine.handle(on.Authenticated(ADA))
    read(machine, request or body())
    (reserve,) = machine.handle(counted())
    assert isinstance(reserve, do.Reserve)
    return reserve


def admit(machine: Exchange, request: on.RequestBody | None = None) -> do.Reply:
    reserve = to_reserve(machine, request)
    reservation = Reservation(reserve.request, reserve.request.predicted)
    (reply,) = machine.handle(on.Reserved(reservation, (("x-ratelimit-limit", "100"),)))
    assert isinstance(reply, do.Reply)
    return reply


def finish(machine: Exchange, commands: tuple[do.Command, ...]) -> tuple[do.Settle, do.Record]:
    settle, record = commands
    assert isinstance(settle, do.Settle)
    assert isinstance(record, do.Record)
    assert machine.state is State.RECORDING
    return settle, record


def sse(*chunks: object) -> bytes:
    return b"".join(
        b"data: " + (c if isinstance(c, bytes) else json.dumps(c).encode()) + b"\n\n"
        for c in chunks
    )


def delta(text: str, **more: object) -> dict[str, object]:
    return {"model": "gpt-4o-x", "choices": [{"index": 0, "delta": {"content": text}}], **more}


def read(machine: Exchange, request: on.RequestBody) -> tuple[do.Command, ...]:
    """Send a body and perform the reading of it."""
    (command,) = machine.handle(request)
    assert isinstance(command, do.Read)
    try:
        plan = command.endpoint.plan(command.body, command.head)
    except SentinelError as error:
        return machine.refuse(error)
    return machine.handle(on.Planned(plan))


class TestRequest:
    def test_headers_ask_for_authentication_before_anything_is_let_through(self) -> None:
        assert exchange().handle(request_headers()) == (do.Authenticate("user-token"),)

    def test_after_authentication_envoy_collects_the_body_and_the_key_is_swapped(self) -> None:
        machine = exchange()
        machine.handle(
            request_headers(
                ("accept-encoding", b"gzip"),
                ("x-sentinel-user", b"spoofed"),
                ("cookie", b"a=b"),
                ("openai-organization", b"org"),
                ("x-other", b"kept"),
            )
        )
        (reply,) = machine.handle(on.Authenticated(ADA))
        assert reply == do.Reply(
            do.Phase.REQUEST_HEADERS,
            set_headers=(("authorization", b"Bearer sk-provider"),),
            remove_headers=("accept-encoding", "cookie", "openai-organization", "x-sentinel-user"),
            mode=do.Mode.REQUEST_AND_STREAM,
        )
        assert not machine.decided

    def test_identity_is_told_to_the_provider_only_if_asked_and_never_the_clients(self) -> None:
        machine = exchange(tell_identity=True)
        machine.handle(request_headers(("x-sentinel-user", b"spoofed"), ("x-sentinel-z", b"1")))
        (reply,) = machine.handle(on.Authenticated(ADA))
        assert isinstance(reply, do.Reply)
        assert dict(reply.set_headers)["x-sentinel-user"] == b"ext-ada"
        assert reply.remove_headers == ("x-sentinel-z",)

    def test_the_body_is_counted_then_reserved_then_let_through(self) -> None:
        machine = exchange()
        machine.handle(request_headers())
        machine.handle(on.Authenticated(ADA))
        (count,) = read(machine, body(max_tokens=40, n=3))
        assert isinstance(count, do.Count)
        assert count.request.kind == "chat"
        (reserve,) = machine.handle(counted(9))
        assert isinstance(reserve, do.Reserve)
        assert reserve.request.exchange_id == "x-1"
        assert reserve.request.predicted == Quantities(1, 9, 120, 2)
        assert reserve.request.subject.external_id == "ext-ada"
        assert reserve.request.subject.plan == "pro"
        assert not machine.decided
        reservation = Reservation(reserve.request, reserve.request.predicted)
        assert machine.handle(on.Reserved(reservation, ())) == (do.Reply(do.Phase.REQUEST_BODY),)
        assert machine.decided

    def test_without_a_cap_the_default_output_is_reserved(self) -> None:
        assert to_reserve(exchange()).request.predicted.output_tokens == 500

    def test_whole_answers_teach_what_to_reserve_for_the_next(self) -> None:
        learned = LearnedOutput(default=500, samples=4)

        def answered(*, cut: bool = False, **request: object) -> int:
            machine = exchange(learned)
            admit(machine, body(**request))
            machine.handle(response_headers())
            whole = json.dumps({"usage": USAGE | {"completion_tokens": 900}}).encode()
            machine.handle(on.ResponseBody(whole, not cut))
            if cut:
                machine.handle(on.Disconnected())
            return machine.reserved_output.tokens

        for _ in range(6):
            assert answered(cut=True) == 500
            assert answered(max_tokens=3) == 3
        assert [answered() for _ in range(5)] == [500, 500, 500, 500, 1024]
        assert answered(n=2) == 2048

    def test_a_streamed_request_is_made_to_ask_for_usage(self) -> None:
        reply = admit(exchange(), body(stream=True))
        assert reply.body is not None
        assert json.loads(reply.body) == CHAT | {
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        assert dict(reply.set_headers)["content-length"] == str(len(reply.body)).encode()

    def test_a_body_of_an_unknown_endpoint_is_estimated_by_size(self) -> None:
        machine = exchange()
        machine.handle(request_headers(path=b"/v1/new/thing"))
        machine.handle(on.Authenticated(ADA))
        (reserve,) = read(machine, on.RequestBody(b"x" * 30))
        assert isinstance(reserve, do.Reserve)
        assert reserve.request.predicted.input_tokens == 10

    def test_a_list_of_models_needs_a_token_and_a_place_but_no_body(self) -> None:
        machine = exchange()
        assert machine.handle(request_headers(method=b"GET", path=b"/v1/models", end=True)) == (
            do.Authenticate("user-token"),
        )
        (reserve,) = machine.handle(on.Authenticated(ADA))
        assert isinstance(reserve, do.Reserve)
        assert reserve.request.predicted == Quantities(1, 0, 0, 0)
        reservation = Reservation(reserve.request, reserve.request.predicted)
        (reply,) = machine.handle(on.Reserved(reservation, ()))
        assert isinstance(reply, do.Reply)
        assert (reply.phase, reply.mode) == (do.Phase.REQUEST_HEADERS, do.Mode.HEADERS_ONLY)
        assert ("authorization", b"Bearer sk-provider") in reply.set_headers
        _, record = finish(machine, machine.handle(response_headers()))
        assert (record.record.requests, record.record.usage) == (0, TokenUsage())


class TestRefusal:
    @pytest.mark.parametrize(
        ("event", "error"),
        [
            (request_headers(token=b""), Unauthenticated),
            (request_headers(token=b"Basic abc"), Unauthenticated),
            (request_headers(("authorization", b"Bearer two")), Unauthenticated),
            (request_headers(path=b"/other"), NotFound),
            (request_headers(path=b"/v1//chat/completions"), InvalidRequest),
            (request_headers(path=b"/v1/%2e%2e/x"), InvalidRequest),
            (request_headers(("content-encoding", b"gzip")), InvalidRequest),
            (request_headers(("upgrade", b"websocket")), InvalidRequest),
            (request_headers(end=True), InvalidRequest),
        ],
    )
    def test_bad_headers_are_answered_at_once(
        self, event: on.RequestHeaders, error: type[Exception]
    ) -> None:
        machine = exchange()
        (respond,) = machine.handle(event)
        assert isinstance(respond, do.Respond)
        assert type(respond.error) is error
        assert machine.state is State.DONE

    def test_a_refused_command_becomes_the_answer(self) -> None:
        for error in (Unauthenticated("no"), Unavailable("later"), LimitExceeded("full")):
            machine = exchange()
            machine.handle(request_headers())
            (respond,) = machine.refuse(error)
            assert isinstance(respond, do.Respond)
            assert respond.error is error

    def test_a_bad_body_is_answered_and_nothing_reserved(self) -> None:
        machine = exchange()
        machine.handle(request_headers())
        machine.handle(on.Authenticated(ADA))
        (respond,) = read(machine, on.RequestBody(b"{"))
        assert isinstance(respond, do.Respond)
        assert respond.error.code == "invalid_json"

    def test_nothing_can_be_refused_once_it_is_at_the_provider(self) -> None:
        machine = exchange()
        admit(machine)
        with pytest.raises(ProtocolViolation):
            machine.refuse(Unavailable("late"))

    def test_a_second_body_message_is_a_violation(self) -> None:
        # It would mean that Envoy streams the body: only its first part would have been checked.
        machine = exchange()
        admit(machine)
        with pytest.raises(ProtocolViolation):
            machine.handle(body())

    def test_trailers_instead_of_a_body_are_refused(self) -> None:
        # Envoy has no body to ask about then, and would forward the request.
        machine = exchange()
        machine.handle(request_headers())
        machine.handle(on.Authenticated(ADA))
        (respond,) = machine.handle(on.Trailers(of_response=False))
        assert isinstance(respond, do.Respond)
        assert respond.error.code == "trailers_without_body"

    def test_an_answer_to_a_request_that_was_never_let_through_is_a_violation(self) -> None:
        for status, allowed in ((b"200", False), (b"302", False), (b"413", True), (b"504", True)):
            machine = exchange()
            machine.handle(request_headers())
            machine.handle(on.Authenticated(ADA))
            if allowed:
                machine.handle(response_headers(status))
                continue
            with pytest.raises(ProtocolViolation):
                machine.handle(response_headers(status))

    @pytest.mark.parametrize("encodings", [[b"gzip"], [b"identity", b"gzip"], [b"", b"br"]])
    def test_no_compressed_body_hides_behind_another_header(self, encodings: list[bytes]) -> None:
        machine = exchange()
        (respond,) = machine.handle(
            request_headers(*[("content-encoding", value) for value in encodings])
        )
        assert isinstance(respond, do.Respond)
        assert respond.error.code == "unsupported_content_encoding"

    def test_an_answer_by_an_earlier_filter_passes(self) -> None:
        machine = exchange()
        assert machine.handle(response_headers(b"403")) == (
            do.Reply(do.Phase.RESPONSE_HEADERS, mode=do.Mode.NOTHING),
        )


class TestAnswer:
    def test_headers_carry_our_limits_and_not_the_providers(self) -> None:
        machine = exchange()
        admit(machine)
        (reply,) = machine.handle(
            response_headers(
                b"200",
                b"application/json",
                ("x-ratelimit-remaining-tokens", b"1"),
                ("x-ratelimit-limit", b"5"),
                ("openai-organization", b"acme"),
                ("set-cookie", b"a"),
                ("x-sentinel-user", b"forged"),
            )
        )
        assert isinstance(reply, do.Reply)
        assert ("x-ratelimit-limit", b"100") in reply.set_headers
        assert reply.remove_headers == (
            "openai-organization",
            "set-cookie",
            "x-ratelimit-remaining-tokens",
            "x-sentinel-user",
        )

    def test_the_end_waits_for_the_record(self) -> None:
        machine = exchange()
        admit(machine)
        machine.handle(response_headers())
        answer = json.dumps({"model": "gpt-4o-x", "choices": [], "usage": USAGE}).encode()
        assert machine.handle(on.ResponseBody(answer[:20], False)) == (
            do.Reply(do.Phase.RESPONSE_BODY),
        )
        settle, record = finish(machine, machine.handle(on.ResponseBody(answer[20:], True)))
        assert settle.actual == Quantities(1, 9, 3, 2)
        assert record.record.usage == TokenUsage(9, 3)
        assert record.record.provenance is Provenance.PROVIDER
        assert record.record.model_served == "gpt-4o-x"
        assert record.record.occurred_at_ms == 1_000
        (reply,) = machine.handle(on.Recorded())
        assert isinstance(reply, do.Reply)
        assert reply.phase is do.Phase.RESPONSE_BODY
        assert reply.body is None
        assert reply.metadata is not None
        assert reply.metadata["input_tokens"] == 9

    def test_without_usage_our_own_count_is_billed_and_says_so(self) -> None:
        machine = exchange()
        admit(machine)
        machine.handle(response_headers())
        answer = {"choices": [{"message": {"content": "one two three"}}]}
        _, record = finish(
            machine, machine.handle(on.ResponseBody(json.dumps(answer).encode(), True))
        )
        assert record.record.usage == TokenUsage(9, 3)
        assert record.record.provenance is Provenance.COUNTED

    @pytest.mark.parametrize("kind", [b"application/json", b"text/event-stream"])
    @pytest.mark.parametrize("encoding", [b"gzip", b"br", b"zstd", b"deflate, gzip"])
    def test_a_compressed_answer_is_estimated(self, encoding: bytes, kind: bytes) -> None:
        machine = exchange()
        admit(machine)
        machine.handle(response_headers(b"200", kind, ("content-encoding", encoding)))
        _, record = finish(machine, machine.handle(on.ResponseBody(b"\x1f\x8b" + b"z" * 38, True)))
        assert record.record.usage == TokenUsage(9, 10)
        assert record.record.provenance is Provenance.ESTIMATED

    @pytest.mark.parametrize("status", [b"400", b"404", b"429", b"500", b"503"])
    def test_a_refusal_by_the_provider_costs_no_tokens_and_its_body_is_not_needed(
        self, status: bytes
    ) -> None:
        machine = exchange()
        admit(machine)
        settle, record = finish(machine, machine.handle(response_headers(status)))
        assert settle.actual == Quantities(1, 0, 0, 2)
        assert record.record.outcome is Outcome.PROVIDER_ERROR
        (reply,) = machine.handle(on.Recorded())
        assert isinstance(reply, do.Reply)
        assert reply.mode is do.Mode.NOTHING
        assert machine.handle(on.ResponseBody(b"late", True)) == (do.Reply(do.Phase.RESPONSE_BODY),)

    @pytest.mark.parametrize("status", [b"401", b"403"])
    def test_a_refusal_of_our_key_is_told_apart_from_one_of_the_callers(
        self, status: bytes
    ) -> None:
        machine = exchange()
        admit(machine)
        assert machine.key_refused is None
        told = ("x-sentinel-error", b"nonsense")
        finish(machine, machine.handle(response_headers(status, b"application/json", told)))
        (reply,) = machine.handle(on.Recorded())
        assert isinstance(reply, do.Reply)
        assert dict(reply.set_headers)["x-sentinel-error"] == b"provider_key_refused"
        assert "x-sentinel-error" not in reply.remove_headers
        assert reply.metadata is not None
        assert reply.metadata["reason"] == "provider_key_refused"
        assert machine.key_refused == int(status)

    @pytest.mark.parametrize("status", [b"200", b"400", b"404", b"429", b"500"])
    def test_other_answers_say_nothing_of_our_key(self, status: bytes) -> None:
        machine = exchange()
        admit(machine)
        commands = machine.handle(response_headers(status))
        if machine.state is State.RECORDING:
            commands = machine.handle(on.Recorded())
        (reply,) = commands
        assert isinstance(reply, do.Reply)
        assert "x-sentinel-error" not in dict(reply.set_headers)
        assert machine.key_refused is None

    def test_a_provider_without_a_key_refuses_the_caller(self) -> None:
        machine = exchange(credentials=())
        admit(machine)
        finish(machine, machine.handle(response_headers(b"401")))
        assert machine.key_refused is None

    def test_the_end_may_be_an_empty_chunk_or_trailers(self) -> None:
        for last in (on.ResponseBody(b"", True), on.Trailers(of_response=True)):
            machine = exchange()
            admit(machine)
            machine.handle(response_headers())
            machine.handle(on.ResponseBody(json.dumps({"usage": USAGE}).encode(), False))
            _, record = finish(machine, machine.handle(last))
            assert record.record.usage == TokenUsage(9, 3)

    def test_the_last_byte_by_length_waits_for_the_record(self) -> None:
        # Envoy may send the end as an empty chunk later; the client counts for itself.
        whole = json.dumps({"usage": USAGE}).encode()
        machine = exchange()
        admit(machine)
        length = ("content-length", b"%d" % len(whole))
        machine.handle(response_headers(b"200", b"application/json", length))
        assert machine.handle(on.ResponseBody(whole[:-1], False)) == (
            do.Reply(do.Phase.RESPONSE_BODY),
        )
        _, record = finish(machine, machine.handle(on.ResponseBody(whole[-1:], False)))
        assert record.record.usage == TokenUsage(9, 3)
        assert record.record.outcome is Outcome.COMPLETED
        (last,) = machine.handle(on.Recorded())
        assert isinstance(last, do.Reply)
        assert last.phase is do.Phase.RESPONSE_BODY
        assert machine.handle(on.ResponseBody(b"", True)) == (do.Reply(do.Phase.RESPONSE_BODY),)


class TestStream:
    STREAM = b"text/event-stream; charset=utf-8"

    def start(self, **change: object) -> Exchange:
        machine = exchange()
        admit(machine, body(stream=True, **change))
        machine.handle(response_headers(b"200", self.STREAM))
        return machine

    def test_the_client_sees_exactly_what_it_asked_for(self) -> None:
        machine = self.start()
        sent = sse(delta("one two ", usage=None), delta("three", usage=None)) + sse(
            {"model": "gpt-4o-x", "choices": [], "usage": USAGE}, b"[DONE]"
        )
        _, record = finish(machine, machine.handle(on.ResponseBody(sent, False)))
        (reply,) = machine.handle(on.Recorded())
        assert isinstance(reply, do.Reply)
        assert reply.body == sse(delta("one two "), delta("three"), b"[DONE]")
        assert record.record.usage == TokenUsage(9, 3)
        assert record.record.provenance is Provenance.PROVIDER
        assert machine.handle(on.ResponseBody(b"", True)) == (do.Reply(do.Phase.RESPONSE_BODY),)

    def test_what_comes_in_pieces_behind_the_last_event_is_not_lost(self) -> None:
        machine = self.start()
        usage = {"choices": [], "usage": USAGE}
        (first,) = machine.handle(on.ResponseBody(sse(usage, b"[DONE]") + b": more", False))
        _, record = finish(machine, machine.handle(on.ResponseBody(b"\n\n", True)))
        (last,) = machine.handle(on.Recorded())
        assert isinstance(first, do.Reply)
        assert isinstance(last, do.Reply)
        assert (first.body or b"") + (last.body or b"") == sse(b"[DONE]") + b": more\n\n"
        assert record.record.usage == TokenUsage(9, 3)

    def test_a_client_that_asked_for_usage_gets_it_untouched(self) -> None:
        machine = self.start(stream_options={"include_usage": True})
        sent = sse(delta("a", usage=None), {"choices": [], "usage": USAGE})
        assert machine.handle(on.ResponseBody(sent, False)) == (do.Reply(do.Phase.RESPONSE_BODY),)

    def test_a_client_that_leaves_pays_for_what_was_streamed_never_nothing(self) -> None:
        machine = self.start()
        machine.handle(on.ResponseBody(sse(delta("one two")), False))
        settle, record = finish(machine, machine.handle(on.Disconnected()))
        assert settle.actual == Quantities(1, 9, 2, 2)
        assert record.record.outcome is Outcome.DISCONNECTED
        assert record.record.provenance is Provenance.COUNTED
        assert machine.handle(on.Recorded()) == ()

    def test_a_client_that_leaves_before_the_answer_pays_for_the_prompt(self) -> None:
        machine = exchange()
        admit(machine)
        settle, _ = finish(machine, machine.handle(on.Disconnected()))
        assert settle.actual == Quantities(1, 9, 0, 2)

    def test_handing_back_settles_at_the_next_chunk_and_loses_no_byte(self) -> None:
        machine = self.start()
        whole = sse(delta("one"), delta("two"))
        (first,) = machine.handle(on.ResponseBody(whole[:-9], False))
        assert machine.handle(on.HandBack()) == ()
        _, record = finish(machine, machine.handle(on.ResponseBody(whole[-9:-5], False)))
        assert record.record.outcome is Outcome.DRAINED
        reply, close = machine.handle(on.Recorded())
        assert isinstance(first, do.Reply)
        assert isinstance(reply, do.Reply)
        assert first.body is not None
        assert reply.body is not None
        assert first.body + reply.body == whole[:-5]
        assert close == do.Close()

    def test_a_disconnect_after_the_end_changes_nothing(self) -> None:
        machine = self.start()
        machine.handle(on.ResponseBody(b"", True))
        assert machine.handle(on.Disconnected()) == ()
        machine.handle(on.Recorded())
        assert machine.handle(on.Disconnected()) == ()


class TestLargeAnswers:
    """Counting much takes long, so it is done in a thread before anything else is."""

    def start(self, kind: bytes) -> Exchange:
        machine = exchange()
        admit(machine, body(stream=kind != b"application/json"))
        machine.handle(response_headers(b"200", kind))
        return machine

    def digested(
        self, machine: Exchange, commands: tuple[do.Command, ...]
    ) -> tuple[do.Command, ...]:
        (digest,) = commands
        assert isinstance(digest, do.Digest)
        assert machine.state is State.DIGESTING
        digest.work()
        assert machine.digest is None
        return machine.handle(on.Digested())

    def test_of_one_piece(self) -> None:
        machine = self.start(b"application/json")
        answer = {"choices": [{"message": {"content": "word " * 8000}}]}
        whole = json.dumps(answer).encode()
        assert machine.handle(on.ResponseBody(whole, False)) == (do.Reply(do.Phase.RESPONSE_BODY),)
        commands = machine.handle(on.ResponseBody(b"", True))
        _, record = finish(machine, self.digested(machine, commands))
        assert record.record.usage == TokenUsage(9, 8000)

    def test_before_trailers(self) -> None:
        machine = self.start(b"application/json")
        answer = {"choices": [{"message": {"content": "word " * 8000}}], "usage": USAGE}
        machine.handle(on.ResponseBody(json.dumps(answer).encode(), False))
        commands = machine.handle(on.Trailers(of_response=True))
        _, record = finish(machine, self.digested(machine, commands))
        assert record.record.usage == TokenUsage(9, 3)
        (reply,) = machine.handle(on.Recorded())
        assert isinstance(reply, do.Reply)
        assert reply.phase is do.Phase.RESPONSE_TRAILERS

    def test_in_a_stream(self) -> None:
        machine = self.start(b"text/event-stream")
        commands = machine.handle(on.ResponseBody(sse(delta("word " * 2000)), False))
        (grow,) = self.digested(machine, commands)
        assert isinstance(grow, do.Grow)
        assert grow.counted.output_tokens == 2000
        (reply,) = machine.handle(on.Grown(Growth.GROWN))
        assert isinstance(reply, do.Reply)

    def test_that_nobody_waits_for_any_more(self) -> None:
        machine = self.start(b"application/json")
        answer = {"choices": [{"message": {"content": "word " * 8000}}]}
        machine.handle(on.ResponseBody(json.dumps(answer).encode(), False))
        assert machine.digest is not None
        _, record = finish(machine, machine.handle(on.Disconnected()))
        assert record.record.usage == TokenUsage(9, 8000)


class TestExhaustion:
    TEXT = "word " * (GROW_EVERY_CHARS // 5 + 1)

    def start(self, **change: object) -> tuple[Exchange, do.Grow]:
        machine = exchange()
        admit(machine, body(stream=True, **change))
        machine.handle(response_headers(b"200", TestStream.STREAM))
        assert isinstance(machine.handle(on.ResponseBody(sse(delta("one")), False))[0], do.Reply), (
            "too little to look at the reservation"
        )
        (grow,) = machine.handle(on.ResponseBody(sse(delta(self.TEXT)), False))
        assert isinstance(grow, do.Grow)
        return machine, grow

    def test_the_hold_follows_the_answer(self) -> None:
        machine, grow = self.start()
        words = len(self.TEXT.split())
        assert grow.counted == Quantities(1, 9, words, 2)
        for growth in (Growth.GROWN, Growth.DEBT):
            (reply,) = machine.handle(on.Grown(growth))
            assert isinstance(reply, do.Reply)
            assert reply.body == sse(delta(self.TEXT))
            machine.handle(on.ResponseBody(sse(delta(self.TEXT)), False))

    def test_a_cut_is_recorded_then_told_then_stops_the_provider(self) -> None:
        machine, _ = self.start()
        settle, record = finish(machine, machine.handle(on.Grown(Growth.CUT)))
        assert settle.actual.output_tokens == len(self.TEXT.split())
        assert record.record.outcome is Outcome.CUT
        (reply,) = machine.handle(on.Recorded())
        assert isinstance(reply, do.Reply)
        assert reply.body is not None
        assert reply.body.startswith(sse(delta(self.TEXT)))
        last = reply.body.removeprefix(sse(delta(self.TEXT)))
        assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "limit_exhausted"
        (respond,) = machine.handle(on.ResponseBody(sse(delta("more")), False))
        assert isinstance(respond, do.Respond)

    def test_a_cut_at_the_very_end_just_ends(self) -> None:
        machine, _ = self.start()
        machine.handle(on.Grown(Growth.CUT))
        machine.handle(on.Recorded())
        assert machine.handle(on.ResponseBody(b"", True)) == (
            do.Reply(do.Phase.RESPONSE_BODY, body=b""),
        )

    def test_a_client_that_leaves_after_a_cut_is_not_billed_twice(self) -> None:
        machine, _ = self.start()
        machine.handle(on.Grown(Growth.CUT))
        machine.handle(on.Recorded())
        assert machine.handle(on.Disconnected()) == ()

    def test_an_event_that_the_client_has_half_of_is_completed_before_the_cut(self) -> None:
        asks = {"include_usage": True}
        machine = exchange()
        admit(machine, body(stream=True, stream_options=asks))
        machine.handle(response_headers(b"200", TestStream.STREAM))
        half = sse(delta("half"))
        machine.handle(on.ResponseBody(sse(delta(self.TEXT)) + half[:9], False))
        # The tail lies in this very chunk, so it can be held back.
        machine.handle(on.Grown(Growth.CUT))
        (reply,) = machine.handle(on.Recorded())
        assert isinstance(reply, do.Reply)
        assert reply.body is not None
        assert reply.body.startswith(sse(delta(self.TEXT)) + b"data: {")

        machine = exchange()
        admit(machine, body(stream=True, stream_options=asks))
        machine.handle(response_headers(b"200", TestStream.STREAM))
        whole = sse(delta(self.TEXT)) + half
        sent = b""
        for piece in (whole[:3], whole[3:-9], whole[-9:-5]):
            commands = machine.handle(on.ResponseBody(piece, False))
            if isinstance(commands[0], do.Grow):
                commands = machine.handle(on.Grown(Growth.DEBT))
            (reply,) = commands
            assert isinstance(reply, do.Reply)
            sent += piece if reply.body is None else reply.body
        assert sent == whole[:-5]

    def test_an_evicted_stream_ends_at_its_next_chunk(self) -> None:
        machine = exchange()
        admit(machine, body(stream=True))
        machine.handle(response_headers(b"200", TestStream.STREAM))
        assert machine.external_id == "ext-ada"
        assert machine.handle(on.Evicted()) == ()
        _, record = finish(machine, machine.handle(on.ResponseBody(sse(delta("one")), False)))
        assert record.record.outcome is Outcome.CUT
        (reply,) = machine.handle(on.Recorded())
        assert isinstance(reply, do.Reply)
        assert reply.body is not None
        assert b"revoked" in reply.body

    def test_an_evicted_answer_that_is_no_stream_is_broken_off(self) -> None:
        for begun in (False, True):
            machine = exchange()
            admit(machine)
            if begun:
                machine.handle(response_headers())
            machine.handle(on.Evicted())
            last = on.ResponseBody(b"{", False) if begun else response_headers()
            finish(machine, machine.handle(last))
            (respond,) = machine.handle(on.Recorded())
            assert isinstance(respond, do.Respond)

    def test_a_request_is_clamped_to_what_was_granted_and_told_so(self) -> None:
        machine = exchange()
        reserve = to_reserve(machine, body(max_tokens=400, n=2))
        held = Quantities(1, 9, 100, 2)
        (reply,) = machine.handle(on.Reserved(Reservation(reserve.request, held), ()))
        assert isinstance(reply, do.Reply)
        assert reply.body is not None
        assert json.loads(reply.body) == CHAT | {"max_tokens": 50, "n": 2}
        assert ("content-length", str(len(reply.body)).encode()) in reply.set_headers
        (headers,) = machine.handle(response_headers())
        assert isinstance(headers, do.Reply)
        assert ("x-sentinel-max-output-tokens", b"100") in headers.set_headers


class TestLeavingEarly:
    def test_nothing_is_settled_or_recorded_before_admission(self) -> None:
        machine = exchange()
        assert machine.handle(on.Disconnected()) == ()
        planned = on.Planned(CHAT_RULES.plan(body().body))
        for steps in range(5):
            machine = exchange()
            events: list[on.Event] = [
                *(request_headers(), on.Authenticated(ADA), body(), planned, counted())
            ]
            for event in events[: steps + 1]:
                machine.handle(event)
            assert machine.handle(on.Disconnected()) == ()
            assert machine.state is State.DONE


@pytest.mark.parametrize(("length", "refused"), [(b"1000", False), (b"1001", True), (b"x", False)])
def test_a_body_that_is_too_long_by_its_own_word_is_refused_at_once(
    length: bytes, refused: bool
) -> None:
    machine = exchange(max_body_bytes=1000)
    (command,) = machine.handle(request_headers(("content-length", length)))
    assert isinstance(command, do.Respond) is refused
    if isinstance(command, do.Respond):
        assert command.error.status == 413
        assert machine.decided


def test_a_body_that_only_passes_may_be_as_long_as_it_likes() -> None:
    machine = exchange(max_body_bytes=1000)
    upload = request_headers(
        ("content-length", b"5000000"),
        ("content-type", b"multipart/form-data; boundary=x"),
        path=b"/v1/audio/transcriptions",
    )
    (command,) = machine.handle(upload)
    assert isinstance(command, do.Authenticate)


STREAM = b"text/event-stream"


def unseen() -> Exchange:
    machine = exchange(native=BytesPerToken())
    admit(machine, body(stream=True))
    (reply,) = machine.handle(response_headers(kind=STREAM))
    assert isinstance(reply, do.Reply)
    assert reply.mode is do.Mode.TRAILERS_ONLY
    assert reply.metadata == {"exchange_id": "x-1"}
    return machine


def test_a_client_does_not_choose_the_route_that_envoy_reads_on() -> None:
    for header, reroute in ((("x-sentinel-meter", b"stream"), True), (("x-other", b"1"), False)):
        machine = exchange(native=BytesPerToken())
        machine.handle(request_headers(header))
        (reply,) = machine.handle(on.Authenticated(ADA))
        assert isinstance(reply, do.Reply)
        assert reply.reroute is reroute
        assert ("x-sentinel-meter" in reply.remove_headers) is reroute


def test_native_metering_takes_envoys_word() -> None:
    machine = unseen()
    told = on.Told("gpt-4o-2024", 12, 34)
    settle, record = finish(machine, machine.handle(on.Trailers(of_response=True, told=told)))
    assert (record.record.usage.input_tokens, record.record.usage.output_tokens) == (12, 34)
    assert record.record.provenance is Provenance.PROVIDER
    assert settle.actual.output_tokens == 34
    (reply,) = machine.handle(on.Recorded())
    assert isinstance(reply, do.Reply)
    assert reply.phase is do.Phase.RESPONSE_TRAILERS
    assert machine.state is State.DONE


@pytest.mark.parametrize("body_bytes", [2400, None])
def test_native_metering_goes_by_length_when_nothing_was_told(body_bytes: int | None) -> None:
    for event, outcome in (
        (on.Disconnected(), Outcome.DISCONNECTED),
        (on.Trailers(of_response=True), Outcome.COMPLETED),
    ):
        machine = unseen()
        *replies, wait = machine.handle(event)
        assert wait == do.AwaitLog()
        assert len(replies) == (outcome is Outcome.COMPLETED)
        assert machine.handle(on.Disconnected()) == (), "nothing new"
        _, record = finish(machine, machine.handle(on.Logged(body_bytes)))
        assert record.record.usage.output_tokens == (10 if body_bytes else 500)
        assert record.record.provenance is Provenance.ESTIMATED
        assert record.record.outcome is outcome


def test_native_metering_lets_go_when_draining() -> None:
    machine = unseen()
    machine.handle(on.HandBack())
    _, record = finish(machine, machine.handle(on.Disconnected()))
    assert record.record.outcome is Outcome.DRAINED
    assert record.record.usage.output_tokens == 500, "what was reserved: nobody sees the rest"


@pytest.mark.parametrize(
    ("path", "kind", "prefix", "stream"),
    [
        (b"/v1/chat/completions", b"application/json", "/v1/", False),
        (b"/v1/completions", STREAM, "/v1/", True),
        (b"/mistral/v1/chat/completions", STREAM, "/mistral/v1/", True),
    ],
)
def test_native_metering_is_for_streamed_chats(
    path: bytes, kind: bytes, prefix: str, stream: bool
) -> None:
    machine = exchange(native=BytesPerToken(), prefix=prefix)
    machine.handle(request_headers(path=path))
    machine.handle(on.Authenticated(ADA))
    read(machine, on.RequestBody(json.dumps(CHAT | {"prompt": "x", "stream": stream}).encode()))
    (reserve,) = machine.handle(counted())
    assert isinstance(reserve, do.Reserve)
    reservation = Reservation(reserve.request, reserve.request.predicted)
    (admitted,) = machine.handle(on.Reserved(reservation, ()))
    assert isinstance(admitted, do.Reply)
    assert not admitted.reroute
    (reply,) = machine.handle(response_headers(kind=kind))
    assert isinstance(reply, do.Reply)
    assert reply.mode is None
    assert machine.state is State.ANSWERING
    assert not machine.unseen, "so its length teaches nothing of those that are"
