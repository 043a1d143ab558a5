"""The invariants of the exchange under any order of events."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from sentinel_extproc.errors import LimitExceeded, SentinelError, Unauthenticated
from sentinel_extproc.exchange import commands as do
from sentinel_extproc.exchange import events as on
from sentinel_extproc.exchange.headers import Upstream
from sentinel_extproc.exchange.machine import Exchange
from sentinel_extproc.exchange.providers import only
from sentinel_extproc.exchange.states import ProtocolViolation
from sentinel_extproc.identity.principal import Principal
from sentinel_extproc.limits.model import Reservation
from sentinel_extproc.tokens.model import Confidence, Estimate

TOKEN = b"user-secret-token"
ADA = Principal("ext-ada", "u1", "ada@example.org")
CHAT = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True})
CHUNK = b'data: {"choices":[{"delta":{"content":"a b"}}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n'


def lines(path: bytes, token: bytes) -> list[tuple[str, bytes]]:
    method = b"GET" if path == b"/v1/realtime" else b"POST"
    head = [(":method", method), (":path", path), ("authorization", token)]
    if path.startswith(b"/v1/audio"):  # too large to be kept
        form = b"multipart/form-data; boundary=XX"
        head += [("content-type", form), ("content-length", b"9999999")]
    return head


MESSAGES = st.one_of(
    st.builds(
        on.RequestHeaders,
        st.builds(
            lines,
            st.sampled_from(
                [
                    *(b"/v1/chat/completions", b"/v1/models", b"/v1/x", b"/y", b"//"),
                    *(b"/v1/audio/transcriptions", b"/v1/files", b"/v1/messages", b"/v1/realtime"),
                ]
            ),
            st.sampled_from([b"Bearer " + TOKEN, b"", b"Basic x"]),
        ),
        st.booleans(),
    ),
    st.builds(on.RequestBody, st.sampled_from([CHAT.encode(), b"", b"{", b"[]"])),
    st.builds(
        on.ResponseHeaders,
        st.sampled_from(
            [
                [(":status", b"200"), ("content-type", b"text/event-stream")],
                [(":status", b"200"), ("content-type", b"application/json")],
                [(":status", b"500")],
                [],
            ]
        ),
        st.booleans(),
    ),
    st.builds(
        on.ResponseBody, st.sampled_from([CHUNK, USAGE, CHUNK[:9], b"", b"\xff"]), st.booleans()
    ),
    st.builds(on.Trailers, st.booleans()),
    st.just(on.HandBack()),
    st.just(on.Evicted()),
    st.just(on.Disconnected()),
)


class Words:
    def feed(self, text: str) -> None: ...

    def total(self) -> int:
        return 1


@dataclass
class Driver:
    """Performs commands at once, with scripted verdicts; keeps what happened in order."""

    authenticates: bool
    reserves: bool
    log: list[str] = field(default_factory=list)
    replies: list[do.Reply | do.Respond] = field(default_factory=list)
    settled: int = 0
    recorded: int = 0

    def perform(self, machine: Exchange, commands: tuple[do.Command, ...]) -> bool:
        todo = list(commands)
        while todo:
            command = todo.pop(0)
            self.log.append(type(command).__name__)
            match command:
                case do.Reply() | do.Respond():
                    self.replies.append(command)
                case do.Authenticate():
                    todo += (
                        machine.handle(on.Authenticated(ADA))
                        if self.authenticates
                        else machine.refuse(Unauthenticated("no"))
                    )
                case do.Read(endpoint, body, head):
                    try:
                        plan = endpoint.plan(body, head)
                    except SentinelError as error:
                        todo += machine.refuse(error)
                    else:
                        todo += machine.handle(on.Planned(plan))
                case do.Count():
                    estimate = Estimate(3, 1, Confidence.EXACT)
                    todo += machine.handle(on.Counted(estimate))
                case do.Reserve(request, _):
                    todo += (
                        machine.handle(on.Reserved(Reservation(request, request.predicted), ()))
                        if self.reserves
                        else machine.refuse(LimitExceeded("full"))
                    )
                case do.Settle():
                    self.settled += 1
                case do.Record():
                    self.recorded += 1
                    todo += machine.handle(on.Recorded())
                case do.Close():
                    return True
        return False


def lets_through(reply: do.Reply | do.Respond) -> bool:
    """Whether Envoy forwards the request upon this reply."""
    if isinstance(reply, do.Respond):
        return False
    if reply.phase is do.Phase.REQUEST_HEADERS:
        return reply.mode is not do.Mode.REQUEST_AND_STREAM
    return reply.phase in (do.Phase.REQUEST_BODY, do.Phase.REQUEST_TRAILERS)


@given(st.lists(MESSAGES, max_size=12), st.booleans(), st.booleans())
def test_invariants_hold_whatever_comes(
    events: list[on.Event], authenticates: bool, reserves: bool
) -> None:
    machine = Exchange(
        exchange_id="x",
        started_at_ms=0,
        choose=only(Upstream((("authorization", b"Bearer sk"),))),
        counters=lambda _: Words(),
    )
    driver = Driver(authenticates, reserves)
    admitted = False
    for event in [*events, on.Disconnected()]:
        before = len(driver.replies)
        if admitted and isinstance(event, on.RequestHeaders):
            continue  # never twice in one stream
        try:
            closed = driver.perform(machine, machine.handle(event))
        except ProtocolViolation:
            driver.perform(machine, machine.handle(on.Disconnected()))
            break
        answers = driver.replies[before:]
        message = not isinstance(event, on.HandBack | on.Evicted | on.Disconnected)
        assert len(answers) == int(message), "one reply per message"
        admitted = admitted or (any(lets_through(r) for r in answers) and "Reserve" in driver.log)
        if any(lets_through(r) for r in answers):
            passed = [authenticates, reserves, "Reserve" in driver.log]
            assert all(passed), "let through unchecked"
        if closed or any(isinstance(r, do.Respond) for r in answers):
            break
    else:
        driver.perform(machine, machine.handle(on.Disconnected()))
    assert driver.settled == driver.recorded == int(admitted)
    if machine.state.name not in ("DONE", "RECORDING"):
        raise AssertionError(f"left in {machine.state}")
    for reply in driver.replies:
        if isinstance(reply, do.Reply):
            assert TOKEN not in b"".join(value for _, value in reply.set_headers)
            if reply.phase is do.Phase.REQUEST_HEADERS and "Authenticate" in driver.log:
                assert dict(reply.set_headers).get("authorization") == b"Bearer sk" or not (
                    lets_through(reply)
                )
