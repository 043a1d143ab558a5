"""The codec: messages to events, commands to messages."""

from __future__ import annotations

import contextlib
import json

import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import given
from hypothesis import strategies as st

from sentinel_extproc.errors import LimitExceeded
from sentinel_extproc.exchange import commands as do
from sentinel_extproc.exchange import events as on
from sentinel_extproc.transport import codec
from sentinel_extproc.transport.codec import CodecError, decode, encode
from sentinel_extproc.transport.pb import sentinel_ext_proc_pb2 as pb


def headers(*lines: tuple[str, bytes]) -> pb.HeaderMap:
    return pb.HeaderMap(headers=[pb.HeaderValue(key=k, raw_value=v) for k, v in lines])


def read(data: bytes) -> pb.ProcessingResponse:
    return pb.ProcessingResponse.FromString(data)


@pytest.mark.parametrize(
    ("message", "event"),
    [
        (
            pb.ProcessingRequest(
                request_headers=pb.HttpHeaders(
                    headers=headers((":path", b"/"), ("x", b"\xff")), end_of_stream=True
                )
            ),
            on.RequestHeaders([(":path", b"/"), ("x", b"\xff")], True),
        ),
        (
            pb.ProcessingRequest(request_body=pb.HttpBody(body=b"abc", end_of_stream=True)),
            on.RequestBody(b"abc"),
        ),
        (
            pb.ProcessingRequest(response_headers=pb.HttpHeaders(headers=headers())),
            on.ResponseHeaders([], False),
        ),
        (
            pb.ProcessingRequest(response_body=pb.HttpBody(end_of_stream=True)),
            on.ResponseBody(b"", True),
        ),
        (pb.ProcessingRequest(request_trailers=pb.HttpTrailers()), on.Trailers(False)),
        (pb.ProcessingRequest(response_trailers=pb.HttpTrailers()), on.Trailers(True)),
    ],
)
def test_events(message: pb.ProcessingRequest, event: on.Event) -> None:
    assert decode(message.SerializeToString()) == event


def test_fields_that_we_do_not_know_are_passed_over() -> None:
    known = pb.ProcessingRequest(request_body=pb.HttpBody(body=b"x")).SerializeToString()
    unknown = b"\x5a\x02\x08\x01"  # field 11, protocol_config
    assert decode(known + unknown) == on.RequestBody(b"x", end_of_stream=False)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_codec_errors(data: bytes) -> None:
    with contextlib.suppress(CodecError):
        decode(data)


def test_a_message_without_content_is_refused() -> None:
    with pytest.raises(CodecError):
        decode(b"")


@pytest.mark.parametrize("phase", do.Phase)
def test_a_plain_reply_is_of_its_messages_kind_and_changes_nothing(phase: do.Phase) -> None:
    reply = read(encode(do.Reply(phase)))
    assert reply.WhichOneof("response") == phase.value
    assert MessageToDict(reply) in (
        {_camel(phase.value): {}},
        {_camel(phase.value): {"response": {}}},
    )


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.title() for word in rest)


def test_header_values_travel_raw_and_overwrite() -> None:
    reply = read(
        encode(do.Reply(do.Phase.REQUEST_HEADERS, (("authorization", b"Bearer \xe9"),), ("x",)))
    )
    mutation = reply.request_headers.response.header_mutation
    (line,) = mutation.set_headers
    assert (line.header.key, line.header.raw_value, line.header.value) == (
        "authorization",
        b"Bearer \xe9",
        "",
    )
    assert line.append_action == pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
    assert list(mutation.remove_headers) == ["x"]


def test_an_emptied_body_is_cleared_not_left() -> None:
    reply = read(encode(do.Reply(do.Phase.RESPONSE_BODY, body=b"")))
    assert reply.response_body.response.body_mutation.clear_body
    reply = read(encode(do.Reply(do.Phase.RESPONSE_BODY, body=b"x")))
    assert reply.response_body.response.body_mutation.body == b"x"


@pytest.mark.parametrize(
    ("mode", "request_body", "response_headers", "response_body"),
    [
        (do.Mode.REQUEST_AND_STREAM, "BUFFERED", "SEND", "STREAMED"),
        (do.Mode.STREAM, "NONE", "SEND", "STREAMED"),
        (do.Mode.HEADERS_ONLY, "NONE", "SEND", "NONE"),
        (do.Mode.NOTHING, "NONE", "SKIP", "NONE"),
    ],
)
def test_modes(mode: do.Mode, request_body: str, response_headers: str, response_body: str) -> None:
    override = read(encode(do.Reply(do.Phase.REQUEST_HEADERS, mode=mode))).mode_override
    body, head = pb.ProcessingMode.BodySendMode, pb.ProcessingMode.HeaderSendMode
    assert body.Name(override.request_body_mode) == request_body
    assert head.Name(override.response_header_mode) == response_headers
    assert body.Name(override.response_body_mode) == response_body


def test_a_refusal_is_openais_error_with_our_facts_beside_it() -> None:
    error = LimitExceeded(
        "No room.",
        retry_after_s=1.2,
        details={"limit": "requests"},
        headers={"x-ratelimit-limit": "5", "x-bad": "a\r\nb", "bad name": "x"},
    )
    answer = read(encode(do.Respond(error, error.body(), {"user": "ada", "input_tokens": 3})))
    immediate = answer.immediate_response
    assert immediate.status.code == 429
    assert json.loads(immediate.body) == {
        "error": {
            "message": "No room.",
            "type": "rate_limit_error",
            "param": None,
            "code": "rate_limit_exceeded",
        },
        "sentinel": {"limit": "requests"},
    }
    lines = {h.header.key: h.header.raw_value for h in immediate.headers.set_headers}
    assert lines["retry-after"] == b"2"
    assert lines["content-type"] == b"application/json"
    assert lines["x-ratelimit-limit"] == b"5"
    assert "x-bad" not in lines
    assert "bad name" not in lines
    assert MessageToDict(answer.dynamic_metadata) == {
        "sentinel": {"user": "ada", "input_tokens": 3.0}
    }


def test_metadata_with_a_lone_surrogate_does_not_fail() -> None:
    encode(do.Reply(do.Phase.RESPONSE_BODY, metadata={"model": "\ud800"}))


def built(command: do.Reply) -> pb.ProcessingResponse:
    """The same reply, of protobuf's own objects."""
    message = pb.ProcessingResponse()
    kind = getattr(message, command.phase.value)
    kind.SetInParent()
    if "trailers" not in command.phase.value:
        kind.response.SetInParent()
        for name, value in command.set_headers:
            kind.response.header_mutation.set_headers.append(
                pb.HeaderValueOption(
                    header=pb.HeaderValue(key=name, raw_value=value),
                    append_action=pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
                )
            )
        kind.response.header_mutation.remove_headers.extend(command.remove_headers)
        if not command.set_headers and not command.remove_headers:
            kind.response.ClearField("header_mutation")
        kind.response.clear_route_cache = command.reroute
        if command.body:
            kind.response.body_mutation.body = command.body
        elif command.body is not None:
            kind.response.body_mutation.clear_body = True
    if command.metadata is not None:
        message.dynamic_metadata.update({"sentinel": dict(command.metadata)})
    return message


names = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=200)
facts = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=200),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=300) | st.integers(0, 2**53),
    max_size=20,
)


@given(
    st.sampled_from([phase for phase in do.Phase if "trailers" not in phase.value]),
    st.lists(st.tuples(names, st.binary(max_size=300)), max_size=6),
    st.lists(names, max_size=6),
    st.none() | st.binary(max_size=400),
    st.none() | facts,
    st.booleans(),
)
def test_replies_are_protobufs_own_bytes(
    phase: do.Phase,
    set_headers: list[tuple[str, bytes]],
    removed: list[str],
    body: bytes | None,
    metadata: dict[str, str | int] | None,
    reroute: bool,
) -> None:
    change = (tuple(set_headers), tuple(removed))
    command = do.Reply(phase, *change, body=body, metadata=metadata, reroute=reroute)
    data = encode(command)
    assert read(data) == built(command)
    assert encode(command) == data, "also when it is remembered"


def test_large_bodies_and_odd_metadata() -> None:
    body = bytes(300_000)
    command = do.Reply(do.Phase.REQUEST_BODY, body=body, metadata={"model": "a\ud800b"})
    reply = read(encode(command))
    assert reply.request_body.response.body_mutation.body == body
    sentinel = reply.dynamic_metadata.fields["sentinel"].struct_value.fields
    assert sentinel["model"].string_value == "a?b"


def test_what_is_remembered_is_bounded() -> None:
    for n in range(1000):
        encode(do.Reply(do.Phase.REQUEST_HEADERS, (("x", b"%d" % n),)))
    assert len(codec._SAID) <= codec._MAX_SAID


def test_no_client_fills_what_is_kept_of_replies() -> None:
    codec._SAID.clear()
    names = tuple(f"x-sentinel-{n}-{'a' * 60}" for n in range(200))
    reply = do.Reply(do.Phase.REQUEST_HEADERS, (("authorization", b"Bearer sk"),), names)
    assert encode(reply) == encode(reply)
    assert not codec._SAID
    for n in range(1000):
        encode(do.Reply(do.Phase.REQUEST_HEADERS, (("authorization", b"Bearer %d" % n),)))
    assert 0 < len(codec._SAID) <= codec._MAX_SAID


def test_what_is_kept_for_one_request_is_never_said_to_another() -> None:
    """However alike they are: only a reply that is the same in everything may be said again."""
    lines = [(), (("a", b"1"),), (("a", b"2"),), (("api-key", b"1"),)]
    replies = [
        do.Reply(phase, given, removed, mode=mode)
        for phase in (do.Phase.REQUEST_HEADERS, do.Phase.REQUEST_BODY, do.Phase.RESPONSE_HEADERS)
        for given in lines
        for removed in ((), ("a",), ("b",))
        for mode in (None, *do.Mode)
    ]
    codec._SAID.clear()
    fresh = {reply: codec._reply(reply) for reply in replies}
    for _ in range(2):
        assert all(encode(reply) == said for reply, said in fresh.items())
