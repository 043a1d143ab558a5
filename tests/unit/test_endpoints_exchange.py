"""Endpoints in an exchange: what each of their abilities does to messages, bills and headers."""

from __future__ import annotations

import json

import pytest

from sentinel_extproc.endpoints.contract import Plan, Reading
from sentinel_extproc.endpoints.form import MAX_KEPT_BYTES
from sentinel_extproc.endpoints.guarded import GuardedUpload
from sentinel_extproc.endpoints.table import MODELS
from sentinel_extproc.endpoints.websocket import text_frame
from sentinel_extproc.errors import Forbidden, LengthRequired, SentinelError, Unauthenticated
from sentinel_extproc.exchange import commands as do
from sentinel_extproc.exchange import events as on
from sentinel_extproc.exchange.accounting import bill
from sentinel_extproc.exchange.expected_output import FixedOutput
from sentinel_extproc.exchange.headers import Upstream
from sentinel_extproc.exchange.machine import Exchange
from sentinel_extproc.exchange.providers import only
from sentinel_extproc.exchange.states import ProtocolViolation, State
from sentinel_extproc.identity.principal import Principal
from sentinel_extproc.limits.model import Growth, Quantities, Reservation
from sentinel_extproc.tokens.model import Confidence, Estimate
from sentinel_extproc.usage.record import Outcome, Provenance, TokenUsage, UsageRecord

ADA = Principal(external_id="ext-ada", user_id="u1", email="ada@example.org")
FORM = b"multipart/form-data; boundary=XX"
TOKEN = ("authorization", b"Bearer user-token")


class Words:
    def __init__(self) -> None:
        self.text = ""

    def feed(self, text: str) -> None:
        self.text += text

    def total(self) -> int:
        return len(self.text.split())


class Playbook:
    """Performs what an exchange asks for at once, and keeps what it said."""

    def __init__(self, *, confidence: Confidence = Confidence.EXACT) -> None:
        self.machine = Exchange(
            exchange_id="x-1",
            started_at_ms=0,
            choose=only(Upstream((("authorization", b"Bearer sk-provider"),))),
            counters=lambda _: Words(),
            expected_output=FixedOutput(500),
        )
        self.confidence = confidence
        self.growth = Growth.GROWN
        self.reserved: Quantities | None = None
        self.grown: Quantities | None = None
        self.settled: Quantities | None = None
        self.record: UsageRecord | None = None
        self.token = ""

    def send(self, event: on.Event) -> do.Reply | do.Respond | None:
        said: do.Reply | do.Respond | None = None
        todo = list(self.machine.handle(event))
        while todo:
            match todo.pop(0):
                case do.Reply() | do.Respond() as reply:
                    said = reply
                case do.Authenticate(token=token):
                    self.token = token
                    todo += self.machine.handle(on.Authenticated(ADA))
                case do.Read(endpoint, body, head):
                    try:
                        todo += self.machine.handle(on.Planned(endpoint.plan(body, head)))
                    except SentinelError as error:
                        todo += self.machine.refuse(error)
                case do.Count():
                    todo += self.machine.handle(on.Counted(Estimate(9, 2, self.confidence)))
                case do.Reserve(request, _):
                    self.reserved = request.predicted
                    held = Reservation(request, request.predicted)
                    todo += self.machine.handle(on.Reserved(held, ()))
                case do.Grow(_, counted):
                    self.grown = counted
                    todo += self.machine.handle(on.Grown(self.growth))
                case do.Settle(_, actual):
                    self.settled = actual
                case do.Record(record):
                    self.record = record
                    todo += self.machine.handle(on.Recorded())
        return said

    def request(
        self, path: bytes, *lines: tuple[str, bytes], method: bytes = b"POST", end: bool = False
    ) -> do.Reply | do.Respond | None:
        head = [(":method", method), (":path", path), *lines]
        return self.send(on.RequestHeaders(head, end))

    def answer(self, status: bytes = b"200", kind: bytes = b"application/json") -> do.Reply:
        head = [(":status", status), ("content-type", kind)]
        reply = self.send(on.ResponseHeaders(head, False))
        assert isinstance(reply, do.Reply)
        return reply

    def billed(self) -> tuple[TokenUsage, Provenance]:
        assert self.record is not None
        return self.record.usage, self.record.provenance


def large_form(size: int = 4_000_000) -> list[tuple[str, bytes]]:
    return [TOKEN, ("content-type", FORM), ("content-length", b"%d" % size)]


PART = b'--XX\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n--XX'


class TestLargeForms:
    def start(self) -> Playbook:
        book = Playbook()
        reply = book.request(b"/v1/audio/transcriptions", *large_form())
        assert isinstance(reply, do.Reply)
        assert (reply.phase, reply.mode) == (do.Phase.REQUEST_HEADERS, do.Mode.STREAM_BOTH)
        assert book.reserved == Quantities(1, 10_000, 500, 0)
        return book

    def test_reserved_at_the_headers_then_every_piece_passes_unchanged(self) -> None:
        book = self.start()
        for piece in (PART, b"more", b""):
            assert book.send(on.RequestBody(piece)) == do.Reply(do.Phase.REQUEST_BODY)

    def test_the_record_knows_the_model_that_passed(self) -> None:
        book = self.start()
        book.send(on.RequestBody(PART))
        book.answer()
        usage = {"input_tokens": 7, "output_tokens": 3}
        book.send(on.ResponseBody(json.dumps({"text": "x", "usage": usage}).encode(), True))
        assert book.record is not None
        assert book.record.model_requested == "whisper-1"
        assert book.billed() == (TokenUsage(7, 3), Provenance.PROVIDER)
        assert book.settled == Quantities(1, 7, 3, 0)

    def test_an_answer_before_the_body_ended(self) -> None:
        book = self.start()
        book.answer()
        assert book.send(on.RequestBody(b"late")) == do.Reply(do.Phase.REQUEST_BODY)
        book.send(on.ResponseBody(b"", True))
        assert book.send(on.RequestBody(b"later")) == do.Reply(do.Phase.REQUEST_BODY)

    def test_a_client_that_leaves_in_its_upload_pays_the_estimate(self) -> None:
        book = self.start()
        book.send(on.RequestBody(PART))
        book.send(on.Disconnected())
        assert book.billed() == (TokenUsage(10_000, 0), Provenance.ESTIMATED)

    def test_a_fault_of_the_reader_stops_nothing(self) -> None:
        class Broken:
            def feed(self, chunk: bytes) -> None:
                raise RuntimeError("bug")

        upload = GuardedUpload(Broken())
        plan = Plan("x", "m")
        for _ in range(2):
            upload.feed(b"x")
        assert upload.faults == 1
        assert upload.refined(MODELS, plan) is plan

    def test_without_a_length_nothing_is_let_through(self) -> None:
        book = Playbook()
        respond = book.request(b"/v1/images/edits", TOKEN, ("content-type", FORM))
        assert isinstance(respond, do.Respond)
        assert type(respond.error) is LengthRequired
        assert book.reserved is None

    def test_a_form_at_the_bound_is_kept_whole(self) -> None:
        book = Playbook()
        reply = book.request(b"/v1/audio/transcriptions", *large_form(MAX_KEPT_BYTES))
        assert isinstance(reply, do.Reply)
        assert reply.mode is do.Mode.REQUEST_AND_STREAM
        assert book.reserved is None

    def test_a_second_whole_body_is_still_a_violation(self) -> None:
        book = Playbook()
        book.request(b"/v1/embeddings", TOKEN)
        book.send(on.RequestBody(b'{"model":"m","input":"x"}'))
        with pytest.raises(ProtocolViolation):
            book.send(on.RequestBody(b"more"))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        (b"POST", b"/v1/files"),
        (b"GET", b"/v1/files/f/content"),
        (b"GET", b"/v1/responses/r"),
        (b"POST", b"/v1/responses/input_tokens"),
        (b"POST", b"/v1/messages/count_tokens"),
    ],
)
def test_what_runs_no_model_is_one_request_and_not_watched(method: bytes, path: bytes) -> None:
    book = Playbook()
    reply = book.request(path, TOKEN, method=method, end=method == b"GET")
    assert isinstance(reply, do.Reply)
    assert reply.mode is do.Mode.HEADERS_ONLY
    assert book.reserved == Quantities(1, 0, 0, 0)
    assert book.answer().mode is do.Mode.NOTHING
    assert book.billed() == (TokenUsage(), Provenance.COUNTED)
    assert book.record is not None
    assert book.record.requests == 1


def test_keys_that_work_past_the_gateway_are_refused_before_authentication() -> None:
    respond = Playbook().request(b"/v1/realtime/client_secrets", TOKEN)
    assert isinstance(respond, do.Respond)
    assert type(respond.error) is Forbidden


def test_sound_is_billed_when_its_first_byte_comes() -> None:
    book = Playbook()
    book.request(b"/v1/audio/speech", TOKEN)
    book.send(on.RequestBody(json.dumps({"model": "tts-1", "input": "x" * 150}).encode()))
    assert book.answer(kind=b"audio/mpeg").mode is do.Mode.NOTHING
    assert book.billed() == (TokenUsage(9, 200), Provenance.ESTIMATED)


class TestKeysElsewhere:
    def test_anthropic_clients(self) -> None:
        book = Playbook()
        reply = book.request(b"/v1/messages", ("x-api-key", b"user-token"))
        assert book.token == "user-token"
        assert isinstance(reply, do.Reply)
        assert "x-api-key" in reply.remove_headers

    def test_authorization_wins(self) -> None:
        book = Playbook()
        book.request(b"/v1/messages", ("x-api-key", b"other"), TOKEN)
        assert book.token == "user-token"

    @pytest.mark.parametrize(
        ("path", "lines"),
        [
            (b"/v1/messages", [("x-api-key", b"")]),
            (b"/v1/messages", [("x-api-key", b"a"), ("x-api-key", b"a")]),
            (b"/v1/messages", [("x-api-key", b"a b")]),
            (b"/v1/chat/completions", [("x-api-key", b"user-token")]),
            (b"/v1/realtime", [("sec-websocket-protocol", b"realtime")]),
            (
                b"/v1/realtime",
                [
                    (
                        "sec-websocket-protocol",
                        b"openai-insecure-api-key.a, openai-insecure-api-key.b",
                    )
                ],
            ),
        ],
    )
    def test_no_clear_key(self, path: bytes, lines: list[tuple[str, bytes]]) -> None:
        respond = Playbook().request(path, *lines, method=b"GET" if b"real" in path else b"POST")
        assert isinstance(respond, do.Respond)
        assert type(respond.error) is Unauthenticated


class TestRealtime:
    UPGRADE = ("upgrade", b"websocket")
    KEY = b"realtime, openai-insecure-api-key.user-token, openai-project.p"

    def start(self, *lines: tuple[str, bytes]) -> tuple[Playbook, do.Reply]:
        book = Playbook()
        reply = book.request(b"/v1/realtime?model=m", self.UPGRADE, *lines, method=b"GET")
        assert isinstance(reply, do.Reply)
        return book, reply

    def test_the_session_is_reserved_for_at_its_start(self) -> None:
        book, reply = self.start(TOKEN, ("sec-websocket-extensions", b"permessage-deflate"))
        assert reply.mode is do.Mode.STREAM
        assert "sec-websocket-extensions" in reply.remove_headers
        assert book.reserved == Quantities(1, 0, 500, 0)

    def test_a_browsers_key_is_used_and_goes_no_further(self) -> None:
        book, reply = self.start(("sec-websocket-protocol", self.KEY))
        assert book.token == "user-token"
        assert dict(reply.set_headers)["sec-websocket-protocol"] == b"realtime"

    def test_nothing_else_may_be_upgraded_to(self) -> None:
        respond = Playbook().request(b"/v1/realtime", TOKEN, ("upgrade", b"h2c"), method=b"GET")
        assert isinstance(respond, do.Respond)
        assert respond.error.code == "upgrade_not_supported"

    def done(self) -> bytes:
        usage = {"input_tokens": 60, "output_tokens": 40}
        return text_frame(
            json.dumps({"type": "response.done", "response": {"usage": usage}}).encode()
        )

    def test_the_hold_follows_input_and_output(self) -> None:
        book, _ = self.start(TOKEN)
        book.answer(b"101")
        reply = book.send(on.ResponseBody(self.done(), False))
        assert reply == do.Reply(do.Phase.RESPONSE_BODY)
        assert book.grown == Quantities(1, 60, 40, 0)

    @pytest.mark.parametrize("event", [on.HandBack(), on.Evicted()])
    def test_it_ends_when_we_do_or_its_caller_is_revoked(self, event: on.Event) -> None:
        # Handed back like another answer, it would go on for ever, unmetered.
        book, _ = self.start(TOKEN)
        book.answer(b"101")
        book.machine.handle(event)
        reply = book.send(on.ResponseBody(self.done(), False))
        assert isinstance(reply, do.Reply)
        assert reply.body is not None
        assert reply.body.startswith(self.done())
        assert len(reply.body) > len(self.done())
        assert book.billed() == (TokenUsage(60, 40), Provenance.PROVIDER)
        assert book.machine.state is State.CUT

    @pytest.mark.parametrize("growth", [Growth.DEBT, Growth.CUT])
    def test_debt_ends_it_because_it_has_no_end_of_its_own(self, growth: Growth) -> None:
        book, _ = self.start(TOKEN)
        book.answer(b"101")
        book.growth = growth
        reply = book.send(on.ResponseBody(self.done(), False))
        assert isinstance(reply, do.Reply)
        assert reply.body is not None
        assert reply.body.startswith(self.done())
        assert b"limit_exhausted" in reply.body
        assert book.billed() == (TokenUsage(60, 40), Provenance.PROVIDER)
        assert book.record is not None
        assert book.record.outcome is Outcome.CUT

    def test_a_session_that_was_closed_is_complete_however_it_ends(self) -> None:
        book, _ = self.start(TOKEN)
        book.answer(b"101")
        book.send(on.ResponseBody(b"\x88\x00", False))
        book.send(on.Disconnected())
        assert book.record is not None
        assert book.record.outcome is Outcome.COMPLETED


class TestProvenance:
    PREDICTED = Quantities(1, 100, 50, 0)

    @pytest.mark.parametrize(
        ("reading", "cap", "confidence", "usage", "provenance"),
        [
            (Reading(exact=True, output_tokens=5), None, "exact", (100, 5), "counted"),
            (Reading(exact=True, output_tokens=5), None, "close", (100, 5), "counted"),
            (Reading(exact=True, output_tokens=5), None, "rough", (100, 5), "estimated"),
            (Reading(output_tokens=5), None, "exact", (100, 5), "estimated"),
            (Reading(output_tokens=5), 0, "exact", (100, 0), "counted"),
            (Reading(deferred=True), None, "exact", (100, 50), "estimated"),
            (
                Reading(so_far=TokenUsage(7, 1), output_tokens=5, exact=True),
                None,
                "rough",
                (7, 6),
                "counted",
            ),
            (
                Reading(reported=TokenUsage(1, 2), output_tokens=9),
                None,
                "rough",
                (1, 2),
                "provider",
            ),
        ],
    )
    def test_a_bill_says_where_it_comes_from(
        self,
        reading: Reading,
        cap: int | None,
        confidence: str,
        usage: tuple[int, int],
        provenance: str,
    ) -> None:
        plan = Plan("x", "m", output_cap=cap)
        final = bill(plan, self.PREDICTED, reading, Outcome.DISCONNECTED, Confidence(confidence))
        assert (final.usage.input_tokens, final.usage.output_tokens) == usage
        assert final.provenance.value == provenance

    def test_what_the_provider_keeps_makes_a_count_an_estimate(self) -> None:
        book = Playbook(confidence=Confidence.ROUGH)
        book.request(b"/v1/responses", TOKEN)
        body = {"model": "m", "input": "x", "previous_response_id": "r"}
        book.send(on.RequestBody(json.dumps(body).encode()))
        book.answer()
        item = {"type": "message", "content": [{"text": "one two"}]}
        book.send(on.ResponseBody(json.dumps({"output": [item]}).encode(), True))
        assert book.billed() == (TokenUsage(9, 2), Provenance.ESTIMATED)

    def test_a_background_response_costs_what_was_reserved(self) -> None:
        book = Playbook()
        book.request(b"/v1/responses", TOKEN)
        body = {"model": "m", "input": "x", "background": True, "max_output_tokens": 77}
        book.send(on.RequestBody(json.dumps(body).encode()))
        book.answer()
        book.send(on.ResponseBody(b'{"status":"queued","output":[],"usage":null}', True))
        assert book.billed() == (TokenUsage(9, 77), Provenance.ESTIMATED)
