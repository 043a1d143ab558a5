"""What is fuzzed: each target takes any bytes, and raises if they show a bug.

The bytes are what an attacker, a broken peer or a torn disk could give to that part.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

from sentinel_extproc.endpoints.contract import Endpoint, Head
from sentinel_extproc.endpoints.json_body import parse_object
from sentinel_extproc.endpoints.multipart import FormScanner, boundary_of
from sentinel_extproc.endpoints.provider_usage import (
    decode,
    find_member,
    read_split_usage,
    read_usage,
)
from sentinel_extproc.endpoints.table import ENDPOINTS, match
from sentinel_extproc.endpoints.websocket import FrameScanner
from sentinel_extproc.errors import SentinelError, Unauthenticated
from sentinel_extproc.exchange import commands as do
from sentinel_extproc.exchange import events as on
from sentinel_extproc.exchange.headers import Upstream
from sentinel_extproc.exchange.machine import Exchange
from sentinel_extproc.exchange.providers import only
from sentinel_extproc.identity.claims import claims_credential, read_credential
from sentinel_extproc.identity.jwks import BadKeySetError, VerificationKey, parse_jwks
from sentinel_extproc.identity.jwt_source import JwtSource
from sentinel_extproc.identity.principal import Principal
from sentinel_extproc.limits.policy_file import PolicyFileError, parse_policy
from sentinel_extproc.sse import Scanner
from sentinel_extproc.tokens.estimator import TokenEstimator
from sentinel_extproc.transport.codec import CodecError, encode, read_access_logs
from sentinel_extproc.transport.codec import decode as decode_message
from sentinel_extproc.transport.http2 import frames as h2
from sentinel_extproc.transport.http2.budget import Budget
from sentinel_extproc.transport.http2.connection import Connection
from sentinel_extproc.transport.http2.events import CallOpened, MessageReceived
from sentinel_extproc.transport.http2.frames import ConnectionFault, ErrorCode
from sentinel_extproc.usage import intent_slots
from sentinel_extproc.usage.slots import TornSlotError, head
from sentinel_extproc.zion.wire import Dialect, MalformedError, decode_limits, decode_profile

Target = Callable[[bytes], None]

_GREETING = h2.PREFACE + h2.settings({})
_ESTIMATOR = TokenEstimator()
_PLANNED: tuple[Endpoint, ...] = tuple(e for e in ENDPOINTS if e.name != "realtime.direct")
_ADA = Principal("ext-ada", "u", "ada@example.org")


def _pieces(data: bytes) -> list[bytes]:
    """``data`` cut at places that it chooses itself."""
    out, at = [], 0
    while at < len(data):
        size = 1 + data[at] % 7
        out.append(data[at : at + size])
        at += size
    return out


def _fed(scanner: Scanner | FrameScanner, pieces: list[bytes]) -> list[Any]:
    return [found for piece in pieces for found in scanner.feed(piece)]


def sse(data: bytes) -> None:
    """Events alike in every split, and not a byte lost."""
    whole, split = Scanner(1 << 20), Scanner(1 << 20)
    events = _fed(whole, [data]) + whole.close()
    assert events == _fed(split, _pieces(data)) + split.close()
    assert b"".join(event.raw for event in events) == data
    small = Scanner(16)
    events = _fed(small, _pieces(data)) + small.close()
    assert b"".join(event.raw for event in events) == data


def codec(data: bytes) -> None:
    """A message, or a named fault; what it says can be handled."""
    with suppress(CodecError):
        read_access_logs(data)
    try:
        event = decode_message(data)
    except CodecError:
        return
    if isinstance(event, on.RequestHeaders):
        _exchange(event)


def headers(data: bytes) -> None:
    """Any header lines are answered, or lead to a question who it is; nothing else."""
    lines = []
    for line in data.split(b"\n")[:200]:
        name, _, value = line.partition(b"=")
        lines.append((name.decode("latin-1").lower(), value))
    _exchange(on.RequestHeaders(lines, end_of_stream=bool(len(data) % 2)))


def _exchange(event: on.RequestHeaders) -> None:
    if event.observed:
        return
    upstream = Upstream((("authorization", b"Bearer sk-provider"),), tell_identity=True)
    machine = Exchange(
        exchange_id="x",
        started_at_ms=1,
        choose=only(upstream),
        counters=_ESTIMATOR.output_counter,
    )
    (command,) = machine.handle(event)
    if isinstance(command, do.Respond):
        assert 400 <= command.error.status < 500
        encode(command)
        return
    assert isinstance(command, do.Authenticate)
    for said in machine.handle(on.Authenticated(_ADA)):
        if isinstance(said, do.Reply):
            encode(said)
            sent = dict(said.set_headers)
            assert sent["authorization"] == b"Bearer sk-provider"
            left = {name for name, _ in event.headers} - set(said.remove_headers) - set(sent)
            spoofed = {name for name in left if name.replace("_", "-").startswith("x-sentinel-")}
            assert not spoofed


def http2(data: bytes) -> None:
    """Frames of a hostile peer: events or a named fault, within bounds, alike in every split."""
    whole, fault = _received([data])
    split, other = _received(_pieces(data))
    if ErrorCode.ENHANCE_YOUR_CALM not in (fault, other):  # that one goes by what comes at once
        assert (whole, fault) == (split, other)


def _received(pieces: list[bytes]) -> tuple[list[Any], ErrorCode | None]:
    budget = Budget(100_000)
    made = Connection(max_streams=3, max_message_bytes=50_000, budget=budget)
    made.receive(_GREETING)
    events: list[Any] = []
    fault = None
    for piece in pieces:
        try:
            events += made.receive(piece)
        except ConnectionFault as found:
            assert made.has_output, "the peer is told why"
            fault, events = found.code, []
            break
        assert made.calls <= 3
    made.take()
    made.drop()
    assert budget.held == 0
    return events, fault


def http2_session(data: bytes) -> None:  # noqa: C901 - one line for each thing to do
    """Both sides at once: what we send keeps to the peer's windows, and nothing is left behind."""
    budget = Budget(1 << 20)
    made = Connection(max_streams=4, max_message_bytes=50_000, budget=budget)
    made.receive(_GREETING)
    unpaid: list[tuple[int, int]] = []
    stream = 1
    block = b"\x83\x44\x01p\x5f\x10application/grpc"
    for at in range(0, len(data) - 1, 2):
        what, much = data[at] % 10, data[at + 1]
        try:
            events: list[Any] = []
            match what:
                case 0:
                    events = made.receive(h2.frame(h2.HEADERS, h2.END_HEADERS, stream, block))
                    stream += 2
                case 1:
                    payload = b"\0" + much.to_bytes(4) + bytes(much)
                    events = made.receive(h2.frame(h2.DATA, much & 1, 1 + 2 * (much % 8), payload))
                case 2:
                    made.send_message(1 + 2 * (much % 8), bytes(much * 400))
                case 3:
                    made.end(1 + 2 * (much % 8))
                case 4:
                    events = made.receive(h2.window_update(much % 9, 1 + much * 300))
                case 5:
                    events = made.receive(h2.reset(1 + 2 * (much % 8), ErrorCode.CANCEL))
                case 6:
                    events = made.receive(h2.settings({4: much * 500}))
                case 7 if unpaid:
                    made.taken(*unpaid.pop(much % len(unpaid)))
                case 8:
                    (made.shut_down, made.close_to_new, made.ask_queue)[much % 3]()
                case _:
                    made.take()
        except ConnectionFault:
            break
        for event in events:
            if isinstance(event, CallOpened):
                assert event.path == b"p"
            if isinstance(event, MessageReceived):
                unpaid.append((event.stream, event.credit))
        assert budget.held >= 0
    made.drop()
    assert budget.held == 0


_UNHEARD = str.maketrans("", "", "_-. \t")


def json_body(data: bytes) -> None:
    """A body is refused, or it says the same to every parser."""
    try:
        value = parse_object(data)
    except SentinelError as refused:
        assert refused.status in (400, 413)
        assert len(refused.body()) < 2000
        return
    assert json.loads(data) == value
    plain = [name.casefold().translate(_UNHEARD) for name in value]
    for name in ("model", "n", "stream", "maxtokens", "messages"):
        assert plain.count(name) <= 1


def plans(data: bytes) -> None:
    """Every endpoint plans a body or refuses it; what it plans can be counted and clamped."""
    for endpoint in _PLANNED:
        kinds = ["application/json", "multipart/form-data; boundary=X"]
        for kind in kinds:
            try:
                plan = endpoint.plan(data, Head("/v1/x", kind, len(data)))
            except SentinelError as refused:
                assert refused.status < 500
                continue
            assert plan.output_cap is None or 0 <= plan.output_cap < 2**53
            if plan.count is not None:
                _ESTIMATOR.estimate(plan.count.kind, plan.count.body)
            clamped = endpoint.clamped(plan, 7)
            if clamped.upstream_body is not None:
                json.loads(clamped.upstream_body)


def paths(data: bytes) -> None:
    """A path is refused, or means the same however often it is unescaped."""
    target = "/v1/" + data.decode("latin-1")
    again = unquote(target.partition("?")[0])
    try:
        found = match("GET", target)
    except SentinelError as refused:
        assert refused.status < 500
    else:
        assert "%2f" not in found.path.lower()
        if " " not in again:
            assert match("GET", again).endpoint is found.endpoint
    try:
        endpoint = match("POST", target).endpoint
    except SentinelError as refused:
        assert refused.status < 500
        return
    assert "/../" not in f"{again}/"
    if " " not in again:
        assert match("POST", again).endpoint is endpoint


def multipart(data: bytes) -> None:
    """A form reads alike in every split."""
    whole, split = FormScanner(b"X"), FormScanner(b"X")
    whole.feed(data)
    for piece in _pieces(data):
        split.feed(piece)
    if not (whole.form.unclear or split.form.unclear):
        assert whole.form == split.form
    assert bool(whole.form.unclear) == bool(split.form.unclear)
    boundary_of(data.decode("latin-1"))


def websocket(data: bytes) -> None:
    """Frames read alike in every split."""
    whole, split = FrameScanner(1 << 16), FrameScanner(1 << 16)
    assert _fed(whole, [data]) == _fed(split, _pieces(data))
    assert (whole.broken, whole.unread, whole.partial) == (
        split.broken,
        split.unread,
        split.partial,
    )


def answers(data: bytes) -> None:
    """A provider's JSON, whole or in part."""
    value = decode(data)
    for read in (read_usage, read_split_usage):
        usage = read(value)
        assert usage is None or 0 <= usage.input_tokens < 2**53
    find_member(data, "usage")


def policy(data: bytes) -> None:
    """A policy file is used, or refused with its faults."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    try:
        parse_policy(text)
    except PolicyFileError as fault:
        assert fault.faults


class _NoKeys:
    async def find(self, kid: str | None, alg: str) -> VerificationKey | None:
        return _KEYS.find(kid, alg)


_KEYS = parse_jwks(
    json.dumps(
        {
            "keys": [
                {
                    "kty": "EC",
                    "crv": "P-256",
                    "alg": "ES256",
                    "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
                    "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
                }
            ]
        }
    ).encode()
)
_SOURCE = JwtSource(_NoKeys(), issuer="https://issuer", audience="sentinel")


def tokens(data: bytes) -> None:
    """A token that nobody signed is refused, whatever it looks like."""
    token = data.decode("latin-1")
    with suppress(Unauthenticated):
        taken = asyncio.run(_SOURCE.identify(token))
        raise AssertionError(f"a token without a signature of ours was taken: {taken}")
    with suppress(SentinelError, ValueError):
        read_credential(token)
    with suppress(SentinelError):
        claims_credential({"claims": {"sub": token}}, "claims", token)
    with suppress(BadKeySetError):
        parse_jwks(data)


def zion(data: bytes) -> None:
    """What Zion answers is read, or malformed."""
    for dialect in Dialect:
        with suppress(MalformedError):
            decode_limits(dialect, data)
    with suppress(MalformedError):
        decode_profile(data)


def intents(data: bytes) -> None:
    """A slot of a file that a crash left behind: an intent, nothing, or torn."""
    with suppress(TornSlotError):
        intent_slots.decode(data.ljust(1024, b"\0"))
    payload = data[:200]
    with suppress(TornSlotError):
        intent_slots.decode(head(payload) + payload)


TARGETS: dict[str, Target] = {
    target.__name__: target
    for target in (
        *(sse, codec, headers, http2, http2_session, json_body, plans, paths, multipart),
        *(websocket, answers, policy, tokens, zion, intents),
    )
}
