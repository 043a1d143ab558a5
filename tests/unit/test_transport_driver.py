"""The driver: commands performed, cancellation survived, and no clean end before a decision."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from sentinel_extproc.errors import CredentialRevoked, LimitExceeded, Unauthenticated, Unavailable
from sentinel_extproc.exchange import events as on
from sentinel_extproc.exchange.headers import Upstream
from sentinel_extproc.exchange.machine import Exchange
from sentinel_extproc.exchange.native import TYPICAL_BYTES, BytesPerToken
from sentinel_extproc.exchange.providers import only
from sentinel_extproc.exchange.states import ProtocolViolation
from sentinel_extproc.identity.principal import Entitlement, EntitlementSource, Principal
from sentinel_extproc.limits.model import (
    NOTHING,
    Growth,
    Quantities,
    Quota,
    QuotaPeriod,
    Reservation,
    ReserveRequest,
    Unit,
)
from sentinel_extproc.overload.admission import Admission
from sentinel_extproc.telemetry.facts import (
    ExchangeFinished,
    ExchangeRefused,
    ExchangeTimed,
    Fact,
    InternalFault,
    RecordNotStored,
)
from sentinel_extproc.tokens.estimator import TokenEstimator
from sentinel_extproc.tokens.model import Estimate, JsonObject, OutputCounter
from sentinel_extproc.transport.codec import CodecError
from sentinel_extproc.transport.driver import Driver, UndecidedEnd
from sentinel_extproc.transport.pb import sentinel_ext_proc_pb2 as pb
from sentinel_extproc.usage.record import Intent, Outcome, TokenUsage, UsageRecord

ADA = Principal("ext-ada", "u1", "ada@example.org")
CHAT = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}).encode()
ANSWER = json.dumps({"usage": {"prompt_tokens": 9, "completion_tokens": 3}}).encode()


def head(**lines: str) -> pb.HttpHeaders:
    names = {"method": ":method", "path": ":path", "status": ":status"}
    return pb.HttpHeaders(
        headers=pb.HeaderMap(
            headers=[
                pb.HeaderValue(key=names.get(k, k), raw_value=v.encode()) for k, v in lines.items()
            ]
        )
    )


REQUEST_HEADERS = pb.ProcessingRequest(
    request_headers=head(method="POST", path="/v1/chat/completions", authorization="Bearer t")
)
REQUEST_BODY = pb.ProcessingRequest(request_body=pb.HttpBody(body=CHAT, end_of_stream=True))
RESPONSE_HEADERS = pb.ProcessingRequest(response_headers=head(status="200"))
RESPONSE_BODY = pb.ProcessingRequest(response_body=pb.HttpBody(body=ANSWER, end_of_stream=True))


class Stream:
    """Scripted messages; None is Envoy's end of the stream."""

    def __init__(self, *messages: pb.ProcessingRequest | bytes | None) -> None:
        self.incoming: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.replies: list[pb.ProcessingResponse] = []
        self.headers: dict[str, bytes] = {}
        self.wrote = asyncio.Event()
        self.came_s = 0.0
        self.behind = 0
        self.waited_s = 0.0
        """How long each message waited before it was read."""
        for message in messages:
            self.send(message)

    def send(self, message: pb.ProcessingRequest | bytes | None) -> None:
        self.incoming.put_nowait(
            message.SerializeToString() if isinstance(message, pb.ProcessingRequest) else message
        )

    async def read(self) -> bytes | None:
        data = await self.incoming.get()
        self.came_s = asyncio.get_running_loop().time() - self.waited_s
        return data

    async def write(self, data: bytes) -> None:
        self.replies.append(pb.ProcessingResponse.FromString(data))
        self.wrote.set()

    def header(self, name: str) -> bytes:
        return self.headers.get(name, b"")

    def stop_reading(self) -> None:
        """Nothing that is done here asks for it."""

    async def replied(self, count: int) -> None:
        while len(self.replies) < count:
            self.wrote.clear()
            await self.wrote.wait()

    def kinds(self) -> list[str | None]:
        return [reply.WhichOneof("response") for reply in self.replies]


class Parts:
    """Scripted collaborators in one object; ``gate`` holds whichever call is named."""

    def __init__(self) -> None:
        self.hold: str | None = None
        self.entered = asyncio.Event()
        self.release = asyncio.Event()
        self.fail: dict[str, Exception] = {}
        self.reserved: list[ReserveRequest] = []
        self.settled: list[Quantities] = []
        self.grown: list[Quantities] = []
        self.growth = Growth.GROWN
        self.revocations = 0
        self.principal = self.rechecked = ADA
        self.begun: list[Intent] = []
        self.abandoned: list[str] = []
        self.stream: Stream | None = None
        self.replies_at_begin: int | None = None
        self.stored: list[UsageRecord] = []
        self.facts: list[Fact] = []
        self.estimator = TokenEstimator()
        self.pool = ThreadPoolExecutor(1)

    async def gate(self, name: str) -> None:
        if self.hold == name:
            self.entered.set()
            await self.release.wait()
        if name in self.fail:
            raise self.fail[name]

    async def authenticate(self, token: str) -> Principal:
        await self.gate("authenticate")
        return self.principal

    async def recheck(self, token: str) -> Principal:
        await self.gate("recheck")
        return self.rechecked

    async def reserve(self, request: ReserveRequest) -> Reservation:
        self.reserved.append(request)
        if self.revocations:
            self.revocations -= 1
            raise CredentialRevoked("revoked")
        await self.gate("reserve")
        return Reservation(request, request.predicted)

    async def grow(self, reservation: Reservation, counted: Quantities) -> Growth:
        self.grown.append(counted)
        return self.growth

    async def settle(self, reservation: Reservation, actual: Quantities) -> None:
        self.settled.append(actual)
        await self.gate("settle")

    def check_room(self) -> None:
        if "check_room" in self.fail:
            raise self.fail["check_room"]

    def begin(self, intent: Intent) -> None:
        if "begin" in self.fail:
            raise self.fail["begin"]
        self.begun.append(intent)
        self.replies_at_begin = None if self.stream is None else len(self.stream.replies)

    async def abandon(self, exchange_id: str) -> None:
        self.abandoned.append(exchange_id)
        await self.gate("abandon")

    async def append(self, record: UsageRecord) -> None:
        self.stored.append(record)
        await self.gate("append")

    def estimate(self, kind: str, body: JsonObject) -> Estimate:
        if "estimate" in self.fail:
            raise self.fail["estimate"]
        return self.estimator.estimate(kind, body)

    def output_counter(self, model: str) -> OutputCounter:
        return self.estimator.output_counter(model)

    def driver(
        self,
        *,
        timeout_s: float = 30.0,
        quotas: EntitlementSource | None = None,
        native: BytesPerToken | None = None,
        admission: Admission | None = None,
        traced: bool = False,
    ) -> Driver:
        def new_exchange(exchange_id: str, started_at_ms: int) -> Exchange:
            return Exchange(
                exchange_id=exchange_id,
                started_at_ms=started_at_ms,
                choose=only(Upstream((("authorization", b"Bearer sk"),))),
                counters=self.output_counter,
                native=native,
            )

        return Driver(
            bytes_per_token=native,
            new_exchange=new_exchange,
            authenticator=self,
            estimator=self,
            limiter=self,
            ledger=self,
            pool=self.pool,
            emit=self.facts.append,
            decision_timeout_s=timeout_s,
            traced=traced,
            quotas=quotas,
            admission=admission,
        )


@pytest.fixture
def parts() -> Parts:
    return Parts()


async def run_to_end(driver: Driver, stream: Stream) -> None:
    stream.send(None)
    await driver.run(stream)
    assert await driver.join(5) == 0


async def test_an_intent_is_noted_before_the_request_is_let_through(parts: Parts) -> None:
    headers = pb.ProcessingRequest()
    headers.CopyFrom(REQUEST_HEADERS)
    headers.request_headers.headers.headers.append(
        pb.HeaderValue(key="x-request-id", raw_value=b"r-1" + b"x" * 500)
    )
    parts.stream = stream = Stream(headers, REQUEST_BODY, RESPONSE_HEADERS, RESPONSE_BODY)
    await run_to_end(parts.driver(), stream)
    assert parts.replies_at_begin == 1  # to the headers, which leaves Envoy waiting for the body
    (begun,), (kept,), (request,) = parts.begun, parts.stored, parts.reserved
    assert (begun.id, begun.occurred_at_ms) == (kept.id, kept.occurred_at_ms)
    assert (begun.external_id, begun.email) == (ADA.external_id, ADA.email)
    assert (begun.endpoint, begun.model) == (kept.endpoint, "gpt-4o")
    assert begun.request_id == kept.request_id == ("r-1" + "x" * 500)[:128]
    assert begun.predicted_input_tokens == request.predicted.input_tokens
    assert begun.reserved_output_tokens == request.predicted.output_tokens


async def test_what_can_not_be_noted_is_not_let_through_and_hands_back_its_reservation(
    parts: Parts,
) -> None:
    parts.fail["begin"] = Unavailable("full", code="usage_unavailable")
    stream = Stream(REQUEST_HEADERS, REQUEST_BODY)
    await run_to_end(parts.driver(), stream)
    assert stream.kinds() == ["request_headers", "immediate_response"]
    assert parts.settled == [NOTHING]
    assert parts.stored == []


@pytest.mark.parametrize("stuck", [False, True])
async def test_an_exchange_that_a_bug_keeps_from_its_record_is_abandoned(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, stuck: bool
) -> None:
    def broken(*_: object, **__: object) -> UsageRecord:
        raise ZeroDivisionError

    monkeypatch.setattr("sentinel_extproc.exchange.steps.end.usage_record", broken)
    if stuck:
        parts.fail["abandon"] = Unavailable("disk")
    stream = Stream(REQUEST_HEADERS, REQUEST_BODY, RESPONSE_HEADERS, RESPONSE_BODY)
    await run_to_end(parts.driver(), stream)
    assert stream.kinds()[-1] == "response_body"  # the client's bytes flow all the same
    assert parts.stored == []
    assert set(parts.abandoned) == {parts.begun[0].id}
    held = parts.reserved[0].predicted
    assert parts.settled, "its hold would be renewed for hours"
    assert all(actual == held for actual in parts.settled)
    where = [fact.where for fact in parts.facts if isinstance(fact, InternalFault)]
    assert ("unknown record" in where) is stuck


async def test_a_bug_between_the_reservation_and_the_decision_hands_everything_back(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    def reserved(exchange: Exchange, event: on.Reserved) -> None:
        exchange.reserved = event.reservation
        broken()

    monkeypatch.setitem(
        Exchange.handle.__globals__["_STEPS"],
        (Exchange.handle.__globals__["State"].RESERVING, on.Reserved),
        reserved,
    )
    driver, stream = parts.driver(), Stream(REQUEST_HEADERS, REQUEST_BODY)
    with pytest.raises(ZeroDivisionError):
        await run_to_end(driver, stream)
    assert await driver.join(5) == 0
    assert "request_body" not in stream.kinds()
    assert parts.settled == [NOTHING]
    assert parts.abandoned == [parts.begun[0].id]


async def test_a_refused_request_leaves_no_intent(parts: Parts) -> None:
    parts.fail["reserve"] = LimitExceeded("no")
    stream = Stream(REQUEST_HEADERS, REQUEST_BODY)
    await run_to_end(parts.driver(), stream)
    assert parts.begun == []


async def test_a_whole_exchange(parts: Parts) -> None:
    stream = Stream(REQUEST_HEADERS, REQUEST_BODY, RESPONSE_HEADERS, RESPONSE_BODY)
    await run_to_end(parts.driver(), stream)
    assert stream.kinds() == [
        "request_headers",
        "request_body",
        "response_headers",
        "response_body",
    ]
    assert parts.settled == [Quantities(1, 9, 3, 2)]
    (record,) = parts.stored
    assert record.outcome is Outcome.COMPLETED
    assert record.id == parts.reserved[0].exchange_id
    finished, timed = parts.facts
    assert isinstance(finished, ExchangeFinished)
    assert isinstance(timed, ExchangeTimed)
    assert timed.end is finished
    phases = timed.timeline.phases
    assert [phase.name for phase in phases] == [
        "authenticate",
        "read",
        "count",
        "reserve",
        "record",
    ]
    assert all(phase.began_ns <= phase.ended_ns and phase.error is None for phase in phases)
    assert 0 < timed.timeline.request_ns < timed.timeline.waited_ns
    assert timed.timeline.messages == 4


async def test_what_is_too_much_is_refused_before_anything_is_spent_on_it(parts: Parts) -> None:
    admission = Admission(most=1)
    driver = parts.driver(admission=admission)
    running = Stream(REQUEST_HEADERS)
    first = asyncio.create_task(driver.run(running))
    await running.replied(1)
    parts.fail["authenticate"] = AssertionError("nobody may be asked")
    second = Stream(REQUEST_HEADERS)
    await run_to_end(driver, second)
    answer = second.replies[0].immediate_response
    assert answer.status.code == 503
    assert json.loads(answer.body)["error"]["code"] == "overloaded"
    for message in (REQUEST_BODY, RESPONSE_HEADERS, RESPONSE_BODY, None):
        running.send(message)  # who was let in is served
    await first
    assert running.kinds()[-1] == "response_body"
    refused = [fact for fact in parts.facts if isinstance(fact, ExchangeRefused)]
    assert [(fact.status, fact.code) for fact in refused] == [(503, "overloaded")]


async def test_a_user_at_the_bound_is_refused_until_one_of_them_ends(parts: Parts) -> None:
    admission = Admission(most=10, most_per_user=1)
    driver = parts.driver(admission=admission)
    running = Stream(REQUEST_HEADERS)
    first = asyncio.create_task(driver.run(running))
    await running.replied(1)
    second = Stream(REQUEST_HEADERS)
    await run_to_end(driver, second)
    assert second.replies[0].immediate_response.status.code == 429
    assert admission.of(ADA.external_id) == 1
    first.cancel()  # Envoy is gone, whenever that is
    with pytest.raises(asyncio.CancelledError):
        await first
    assert admission.busiest == 0
    third = Stream(REQUEST_HEADERS, REQUEST_BODY, RESPONSE_HEADERS, RESPONSE_BODY)
    await run_to_end(driver, third)
    assert third.kinds()[-1] == "response_body"
    assert admission.busiest == 0


class HeldPool(ThreadPoolExecutor):
    """Starts counting when it is told to."""

    def __init__(self) -> None:
        super().__init__(1)
        self.release = threading.Event()
        self.asked = asyncio.Event()

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        def held() -> Any:
            assert self.release.wait(30)
            return work(*args, **kwargs)

        self.asked.set()
        return super().submit(held)


WORDS = json.dumps({"choices": [{"message": {"content": "word " * 10_000}}]}).encode()
LARGE = pb.ProcessingRequest(response_body=pb.HttpBody(body=WORDS, end_of_stream=True))


@pytest.mark.parametrize("leaves", ["never", "while it is counted", "before its end"])
async def test_a_large_answer_is_counted_in_a_thread(parts: Parts, leaves: str) -> None:
    parts.pool = pool = HeldPool()
    stream = Stream(REQUEST_HEADERS, REQUEST_BODY, RESPONSE_HEADERS)
    driver = parts.driver()
    running = asyncio.create_task(driver.run(stream))
    await stream.replied(3)
    if leaves == "before its end":
        stream.send(pb.ProcessingRequest(response_body=pb.HttpBody(body=WORDS)))
        await stream.replied(4)
        stream.send(None)
    else:
        stream.send(LARGE)
    await pool.asked.wait()
    if leaves == "while it is counted":
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert not parts.stored
    pool.release.set()
    stream.send(None)
    if not running.done():
        await running
    assert await driver.join(30) == 0
    (record,) = parts.stored
    assert record.usage == TokenUsage(8, 10_001)
    assert parts.settled == [Quantities(1, 8, 10_001, 2)]
    assert record.outcome is (Outcome.COMPLETED if leaves == "never" else Outcome.DISCONNECTED)


@pytest.mark.parametrize("what", ["append", "settle"])
async def test_the_end_is_not_shown_before_the_record_is_stored_and_the_place_is_free(
    parts: Parts, what: str
) -> None:
    parts.hold = what
    stream = Stream(REQUEST_HEADERS, REQUEST_BODY, RESPONSE_HEADERS, RESPONSE_BODY)
    running = asyncio.create_task(parts.driver().run(stream))
    await parts.entered.wait()
    assert len(stream.replies) == 3
    parts.release.set()
    await stream.replied(4)
    stream.send(None)
    await running


@pytest.mark.parametrize(
    ("part", "error", "status"),
    [
        ("authenticate", Unauthenticated("no"), 401),
        ("authenticate", Unavailable("zion is away"), 503),
        ("reserve", LimitExceeded("full"), 429),
        ("reserve", Unavailable("redis is away"), 503),
        ("check_room", Unavailable("the outbox is full"), 503),
    ],
)
async def test_what_is_refused_is_answered_and_not_recorded(
    parts: Parts, part: str, error: Exception, status: int
) -> None:
    parts.fail[part] = error
    stream = Stream(REQUEST_HEADERS, REQUEST_BODY)
    stream.send(None)
    if part == "authenticate":
        stream = Stream(REQUEST_HEADERS)
        stream.send(None)
    await parts.driver().run(stream)
    assert stream.replies[-1].immediate_response.status.code == status
    assert not parts.stored
    assert not parts.settled
    refused, timed = parts.facts
    assert isinstance(refused, ExchangeRefused)
    assert isinstance(timed, ExchangeTimed)
    assert timed.end is refused
    assert timed.timeline.phases[-1].error == refused.code
    assert 0 < timed.timeline.request_ns == timed.timeline.waited_ns


@pytest.mark.parametrize("part", ["authenticate", "estimate", "reserve", "check_room"])
async def test_a_bug_before_the_decision_ends_in_an_error_never_in_silence(
    parts: Parts, part: str
) -> None:
    parts.fail[part] = RuntimeError("bug")
    stream = Stream(REQUEST_HEADERS, REQUEST_BODY)
    stream.send(None)
    with pytest.raises(RuntimeError):
        await parts.driver().run(stream)
    assert "request_body" not in stream.kinds()
    fact, timed = parts.facts
    assert isinstance(timed, ExchangeTimed)
    assert timed.end is None
    assert isinstance(fact, InternalFault)
    assert not fact.admitted


@pytest.mark.parametrize("sent", [[], [REQUEST_HEADERS]])
async def test_an_end_before_the_decision_is_an_error(
    parts: Parts, sent: list[pb.ProcessingRequest]
) -> None:
    stream = Stream(*sent)
    stream.send(None)
    with pytest.raises(UndecidedEnd):
        await parts.driver().run(stream)


@pytest.mark.parametrize(
    ("message", "error"), [(b"\xff", CodecError), (REQUEST_BODY, ProtocolViolation)]
)
async def test_messages_that_make_no_sense_are_errors(
    parts: Parts, message: pb.ProcessingRequest | bytes, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await parts.driver().run(Stream(message))


async def test_a_part_that_hangs_is_answered_in_time(parts: Parts) -> None:
    for part, messages in (("authenticate", 1), ("reserve", 2)):
        parts = Parts()
        parts.hold = part
        stream = Stream(*[REQUEST_HEADERS, REQUEST_BODY][:messages])
        stream.send(None)
        driver = parts.driver(timeout_s=0.01)
        await driver.run(stream)
        assert stream.replies[-1].immediate_response.status.code == 503
        parts.release.set()
        await driver.join(5)


async def test_a_message_that_came_too_long_ago_is_answered_without_a_question(
    parts: Parts,
) -> None:
    # As if it had lain in the socket: Envoy has been waiting since then.
    for messages in ([REQUEST_HEADERS], [REQUEST_HEADERS, REQUEST_BODY]):
        parts = Parts()
        admission = Admission()
        driver, stream = parts.driver(timeout_s=1.0, admission=admission), Stream()
        running = asyncio.create_task(driver.run(stream))
        for number, message in enumerate(messages):
            stream.waited_s = 0.0 if message is not messages[-1] else 1.0
            stream.send(message)
            await stream.replied(number + 1)
        answer = stream.replies[-1].immediate_response
        assert answer.status.code == 503
        assert b"overloaded" in answer.body
        stream.send(None)
        await running
        assert admission.turned_away == {"queue": 1}
        assert parts.reserved == []


async def test_a_new_one_with_a_queue_behind_it_is_turned_away_before_it_costs(
    parts: Parts,
) -> None:
    driver, stream = parts.driver(), Stream(REQUEST_HEADERS)
    stream.waited_s, stream.behind = 0.6, 100
    parts.fail["authenticate"] = AssertionError("nobody may be asked")
    await run_to_end(driver, stream)
    assert stream.replies[-1].immediate_response.status.code == 503
    # It is for what is new: whom we let in is served though it waited as long.
    parts = Parts()
    driver, stream = parts.driver(), Stream(REQUEST_HEADERS)
    running = asyncio.create_task(driver.run(stream))
    await stream.replied(1)
    stream.waited_s, stream.behind = 0.6, 100
    stream.send(REQUEST_BODY)
    await stream.replied(2)
    assert stream.kinds() == ["request_headers", "request_body"]
    stream.send(None)
    await running
    await driver.join(5)


async def cancel_while_held(
    parts: Parts, part: str, *messages: pb.ProcessingRequest
) -> tuple[Driver, Stream]:
    parts.hold = part
    driver, stream = parts.driver(), Stream(*messages)
    running = asyncio.create_task(driver.run(stream))
    await parts.entered.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    return driver, stream


async def test_a_client_that_leaves_while_reserving_gets_everything_back(parts: Parts) -> None:
    driver, _ = await cancel_while_held(parts, "reserve", REQUEST_HEADERS, REQUEST_BODY)
    parts.release.set()
    await driver.join(5)
    assert len(parts.reserved) == 2, "asked again under the same id"
    assert parts.reserved[0] == parts.reserved[1]
    assert parts.settled == [NOTHING]
    assert not parts.stored


async def test_a_client_that_leaves_while_authenticating_costs_nothing(parts: Parts) -> None:
    driver, _ = await cancel_while_held(parts, "authenticate", REQUEST_HEADERS)
    await driver.join(5)
    assert not parts.reserved
    assert not parts.stored


@pytest.mark.parametrize("what", ["append", "settle"])
async def test_a_client_that_leaves_while_recording_is_billed_once(parts: Parts, what: str) -> None:
    driver, _ = await cancel_while_held(
        parts, what, REQUEST_HEADERS, REQUEST_BODY, RESPONSE_HEADERS, RESPONSE_BODY
    )
    parts.release.set()
    await driver.join(5)
    assert len(parts.stored) == 1
    assert len(parts.settled) == 1


async def test_a_client_that_leaves_under_the_answer_is_settled(parts: Parts) -> None:
    driver, stream = parts.driver(), Stream(REQUEST_HEADERS, REQUEST_BODY, RESPONSE_HEADERS)
    running = asyncio.create_task(driver.run(stream))
    await stream.replied(3)
    assert driver.live == 1
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await driver.join(5)
    assert driver.live == 0
    (record,) = parts.stored
    assert record.outcome is Outcome.DISCONNECTED
    assert len(parts.settled) == 1


async def test_times_are_told_once_when_all_is_accounted_for(parts: Parts) -> None:
    """An answer that Envoy meters is billed behind its stream, when the log has told its length."""
    driver = parts.driver(native=BytesPerToken())
    streamed = json.dumps(json.loads(CHAT) | {"stream": True}).encode()
    request = pb.ProcessingRequest(request_body=pb.HttpBody(body=streamed, end_of_stream=True))
    events = pb.ProcessingRequest(
        response_headers=head(status="200", **{"content-type": "text/event-stream"})
    )
    await driver.run(Stream(REQUEST_HEADERS, request, events, None))
    assert parts.facts == []
    driver.logged(parts.reserved[0].exchange_id, 400)
    assert await driver.join(5) == 0
    finished, timed = parts.facts
    assert isinstance(finished, ExchangeFinished)
    assert isinstance(timed, ExchangeTimed)
    assert timed.end is finished


@pytest.mark.parametrize(
    ("of_stream", "of_request", "parent"),
    [("a", "b", 0xA), (None, "b", 0xB), ("nonsense", "b", 0xB), (None, None, None)],
)
async def test_the_streams_own_trace_goes_before_the_requests(
    parts: Parts, of_stream: str | None, of_request: str | None, parent: int | None
) -> None:
    def header(span: str | None) -> dict[str, str]:
        return {} if span is None else {"traceparent": f"00-{'1' * 32}-{span * 16}-01"[:55]}

    lines = {"method": "POST", "path": "/v1/models", "authorization": "Bearer t"}
    request = pb.ProcessingRequest(request_headers=head(**lines, **header(of_request)))
    for traced in (True, False):
        parts.facts.clear()
        stream = Stream(request, None)
        stream.headers = {name: text.encode() for name, text in header(of_stream).items()}
        with contextlib.suppress(UndecidedEnd):
            await parts.driver(traced=traced).run(stream)
        (timed,) = (fact for fact in parts.facts if isinstance(fact, ExchangeTimed))
        if traced and parent is not None:
            assert timed.trace is not None
            assert timed.trace.span_id == parent * 0x1111_1111_1111_1111
        else:
            assert timed.trace is None


async def test_a_client_that_leaves_before_a_decision_leaves_its_times(parts: Parts) -> None:
    with pytest.raises(UndecidedEnd):
        await parts.driver().run(Stream(REQUEST_HEADERS, None))
    (timed,) = parts.facts
    assert isinstance(timed, ExchangeTimed)
    assert timed.end is None
    assert timed.timeline.request_ns == 0
    assert timed.timeline.waited_ns > 0


async def test_a_fact_that_cannot_be_told_costs_no_record(parts: Parts) -> None:
    parts.facts = _Broken()
    stream = Stream(REQUEST_HEADERS, REQUEST_BODY, RESPONSE_HEADERS, RESPONSE_BODY)
    await run_to_end(parts.driver(), stream)
    assert len(parts.stored) == len(parts.settled) == 1


class _Broken(list[Fact]):
    def append(self, fact: Fact) -> None:
        raise RuntimeError("bug in an adapter")


async def test_a_record_that_cannot_be_stored_does_not_hold_the_client(parts: Parts) -> None:
    parts.fail["append"] = Unavailable("disk full")
    stream = Stream(REQUEST_HEADERS, REQUEST_BODY, RESPONSE_HEADERS, RESPONSE_BODY)
    await run_to_end(parts.driver(), stream)
    assert stream.kinds()[-1] == "response_body"
    assert any(isinstance(fact, RecordNotStored) for fact in parts.facts)


@pytest.mark.parametrize("leaves", [False, True])
async def test_a_settlement_that_a_bug_prevents_costs_no_record(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, leaves: bool
) -> None:
    """It is made at once now, without a task of its own, in front of the record."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(parts, "settle", broken)
    messages = [REQUEST_HEADERS, REQUEST_BODY, RESPONSE_HEADERS]
    stream = Stream(*messages, *([] if leaves else [RESPONSE_BODY]))
    await run_to_end(parts.driver(), stream)
    assert len(stream.replies) == len(messages) + (not leaves)
    assert len(parts.stored) == 1
    assert [type(fact) for fact in parts.facts] == [InternalFault, ExchangeFinished, ExchangeTimed]


async def test_a_bug_under_the_answer_settles_and_lets_the_bytes_flow(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunk = pb.ProcessingRequest(response_body=pb.HttpBody(body=b"abc"))
    broken: Callable[..., object] = lambda *_: 1 / 0  # noqa: E731
    monkeypatch.setitem(
        Exchange.handle.__globals__["_STEPS"],
        (Exchange.handle.__globals__["State"].ANSWERING, type(_event(chunk))),
        broken,
    )
    stream = Stream(REQUEST_HEADERS, REQUEST_BODY, RESPONSE_HEADERS, chunk, chunk)
    await run_to_end(parts.driver(), stream)
    assert (
        stream.kinds()
        == ["request_headers", "request_body", "response_headers"] + ["response_body"] * 2
    )
    assert len(parts.stored) == 1
    assert len(parts.settled) == 1


def _event(message: pb.ProcessingRequest) -> object:
    from sentinel_extproc.transport.codec import decode

    return decode(message.SerializeToString())


async def test_handing_back_ends_our_side_after_the_next_chunk(parts: Parts) -> None:
    driver, stream = parts.driver(), Stream(REQUEST_HEADERS, REQUEST_BODY, RESPONSE_HEADERS)
    running = asyncio.create_task(driver.run(stream))
    await stream.replied(3)
    driver.hand_back()
    stream.send(pb.ProcessingRequest(response_body=pb.HttpBody(body=b"{")))
    await running
    assert parts.stored[0].outcome is Outcome.DRAINED


@pytest.mark.parametrize(("user", "ended"), [("ext-ada", 1), (None, 1), ("ext-bo", 0)])
async def test_ending_the_streams_of_a_user(parts: Parts, user: str | None, ended: int) -> None:
    driver, stream = parts.driver(), Stream(REQUEST_HEADERS, REQUEST_BODY, RESPONSE_HEADERS)
    running = asyncio.create_task(driver.run(stream))
    await stream.replied(3)
    assert driver.end_streams(user) == ended
    stream.send(pb.ProcessingRequest(response_body=pb.HttpBody(body=b"{")))
    await stream.replied(4)
    stream.send(None)
    await running
    await driver.join(5)
    assert (parts.stored[0].outcome is Outcome.CUT) == bool(ended)


async def test_a_large_body_is_counted_off_the_loop(parts: Parts) -> None:
    big = json.dumps(
        {"model": "gpt-4o", "messages": [{"role": "user", "content": "word " * 5000}]}
    ).encode()
    body = pb.ProcessingRequest(request_body=pb.HttpBody(body=big, end_of_stream=True))
    stream = Stream(REQUEST_HEADERS, body, RESPONSE_HEADERS, RESPONSE_BODY)
    await run_to_end(parts.driver(), stream)
    assert parts.reserved[0].predicted.input_tokens > 5000


@pytest.mark.parametrize(("known", "plan"), [(None, "pro"), ("team", "team")])
async def test_quotas_and_plan_go_into_the_reservation(
    parts: Parts, known: str | None, plan: str
) -> None:
    quota = Quota("q", Unit.REQUESTS, 5, 1, QuotaPeriod.DAILY, 0)

    class Entitled:
        async def entitlement(self, principal: Principal) -> Entitlement:
            return Entitlement((quota,), "pro")

    parts.principal = replace(ADA, plan=known)
    stream = Stream(REQUEST_HEADERS, REQUEST_BODY, RESPONSE_HEADERS, RESPONSE_BODY)
    await run_to_end(parts.driver(quotas=Entitled()), stream)
    assert parts.reserved[0].quotas == (quota,)
    assert parts.reserved[0].subject.plan == plan


async def test_a_revocation_since_the_check_asks_the_source_and_goes_on(parts: Parts) -> None:
    parts.revocations = 1
    parts.rechecked = Principal("ext-ada", "u1", "ada@example.org", plan="new")
    stream = Stream(REQUEST_HEADERS, REQUEST_BODY, RESPONSE_HEADERS, RESPONSE_BODY)
    await run_to_end(parts.driver(), stream)
    assert [request.subject.plan for request in parts.reserved] == [None, "new"]
    assert len(parts.settled) == len(parts.stored) == 1


@pytest.mark.parametrize("way", ["refused", "somebody else", "revoked again", "away"])
async def test_a_revocation_that_the_source_confirms_denies(parts: Parts, way: str) -> None:
    parts.revocations = 2 if way == "revoked again" else 1
    if way == "refused":
        parts.fail["recheck"] = Unauthenticated("no")
    elif way == "away":
        parts.fail["recheck"] = Unavailable("zion is away")
    elif way == "somebody else":
        parts.rechecked = Principal("ext-bo", "u2", "bo@example.org")
    stream = Stream(REQUEST_HEADERS, REQUEST_BODY)
    stream.send(None)
    await parts.driver().run(stream)
    status = stream.replies[-1].immediate_response.status.code
    assert status == (503 if way == "away" else 401)
    assert not parts.settled
    assert not parts.stored


async def test_running_exchanges_are_told_of_oldest_first(parts: Parts) -> None:
    driver = parts.driver()
    assert driver.running(10) == []
    streams = [Stream(REQUEST_HEADERS, REQUEST_BODY, RESPONSE_HEADERS) for _ in range(3)]
    tasks = [asyncio.create_task(driver.run(stream)) for stream in streams]
    for stream in streams:
        await stream.replied(3)
    running = driver.running(2)
    assert len(running) == 2
    assert running[0].started_at_ms <= running[1].started_at_ms
    one = running[0]
    assert (one.user, one.model, one.admitted) == ("ext-ada", "gpt-4o", True)
    assert one.endpoint == "chat.completions"
    for stream in streams:
        stream.send(RESPONSE_BODY)
        stream.send(None)
    await asyncio.gather(*tasks)
    assert driver.running(10) == []


async def test_only_answers_that_envoy_metered_teach_what_those_are_long() -> None:
    parts, known = Parts(), BytesPerToken()
    driver = parts.driver(native=known)
    plain = json.dumps({"usage": {"prompt_tokens": 9, "completion_tokens": 100}}).encode()
    whole = pb.ProcessingRequest(response_body=pb.HttpBody(body=plain, end_of_stream=True))
    await driver.run(Stream(REQUEST_HEADERS, REQUEST_BODY, RESPONSE_HEADERS, whole, None))
    (record,) = parts.stored
    driver.logged(record.id, 400)
    assert known.of("gpt-4o") == TYPICAL_BYTES, "a token in JSON is far shorter than in a stream"


async def test_a_refusal_that_cannot_be_said_is_no_leave_to_go_on() -> None:
    """Refusing decides an exchange; if it then fails, Envoy must not be told "go on" instead."""

    class Jammed(Stream):
        async def write(self, data: bytes) -> None:
            if pb.ProcessingResponse.FromString(data).HasField("immediate_response"):
                raise OSError("jammed")
            await super().write(data)

    trailers = pb.ProcessingRequest(request_trailers=pb.HttpTrailers())
    stream = Jammed(REQUEST_HEADERS, trailers, None)
    with pytest.raises(OSError, match="jammed"):
        await Parts().driver().run(stream)
    assert stream.kinds() == ["request_headers"]
