"""Wire messages to events, commands to wire messages. The only user of protobuf.

Replies are built as serialized bytes, because most of them say "go on" and are the same every time.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError
from msgspec import structs

from sentinel_extproc.exchange import commands as do
from sentinel_extproc.exchange import events as on
from sentinel_extproc.exchange.headers import valid_name, valid_value
from sentinel_extproc.exchange.lines import Lines
from sentinel_extproc.transport import wire
from sentinel_extproc.transport.pb import sentinel_ext_proc_pb2 as pb

METHOD = ("envoy.service.ext_proc.v3.ExternalProcessor", "Process")
"""Service and method as they travel."""

METADATA_NAMESPACE = "sentinel"
"""Must be listed under the filter's ``receiving_namespaces.untyped``, or Envoy drops it."""

ACCESS_LOGS = ("envoy.service.accesslog.v3.AccessLogService", "StreamAccessLogs")
"""Where Envoy's access logs come."""

USAGE_NAMESPACE = "sentinel.usage"
"""Where Envoy's own reading of an answer's usage is told to go, when it meters natively."""

_COMPLETE = 1

_parse = pb.ProcessingRequest.FromString

_LINE = attrgetter("key", "raw_value")

JWT_NAMESPACE = "envoy.filters.http.jwt_authn"
"""Where Envoy's own filter puts what it has verified; comes only when the filter is told to forward
it (``forwarding_namespaces.untyped``)."""


ROUTE_ATTRIBUTE = "xds.route_name"
"""What Envoy calls the route that it chose; unlike a path or a header, no client can set it."""


class CodecError(Exception):
    """Bytes that are no message of the protocol, or one that we never asked for."""


def decode(data: bytes) -> on.Event:
    """Decode one ``ProcessingRequest``.

    Raises:
        CodecError: undecodable, or without a known message in it.
    """
    try:
        message = _parse(data)
        read = _EVENTS[message.WhichOneof("request")]
    except DecodeError as fault:
        raise CodecError("not a ProcessingRequest") from fault
    except KeyError:
        raise CodecError("a ProcessingRequest without a message that we know") from None
    return read(message)


def encode(command: do.Reply | do.Respond) -> bytes:
    """Encode one ``ProcessingResponse``."""
    if isinstance(command, do.Respond):
        return _immediate(command).SerializeToString()
    return encode_reply(command)


def encode_reply(command: do.Reply) -> bytes:
    """As ``encode``, where it is known to be a ``Reply``."""
    if command.metadata is not None:
        facts = wire.sized(_METADATA, wire.metadata(METADATA_NAMESPACE, command.metadata))
        return encode_reply(structs.replace(command, metadata=None)) + facts
    once = command.set_headers and command.phase is not do.Phase.REQUEST_HEADERS
    if once or command.body is not None:
        return _reply(command)
    # What is said to one request is often said to the next: "go on", or the provider's key.
    known = _SAID.get(command)
    if known is None:
        known = _reply(command)
        if len(known) <= _MAX_SAID_BYTES:
            if len(_SAID) >= _MAX_SAID:
                _SAID.clear()
            _SAID[command] = known
    return known


def _request_headers(message: pb.ProcessingRequest) -> on.RequestHeaders:
    head = message.request_headers
    return on.RequestHeaders(
        _headers(head.headers),
        head.end_of_stream,
        _verified(message),
        _route(message),
        message.observability_mode,
    )


def _request_body(message: pb.ProcessingRequest) -> on.RequestBody:
    piece = message.request_body
    return on.RequestBody(piece.body, piece.end_of_stream)


def _request_trailers(message: pb.ProcessingRequest) -> on.Trailers:
    lines = message.request_trailers.trailers.headers
    return on.Trailers(False, names=tuple({line.key: None for line in lines}))


def _response_headers(message: pb.ProcessingRequest) -> on.ResponseHeaders:
    head = message.response_headers
    return on.ResponseHeaders(_headers(head.headers), head.end_of_stream)


def _response_body(message: pb.ProcessingRequest) -> on.ResponseBody:
    piece = message.response_body
    return on.ResponseBody(piece.body, piece.end_of_stream)


def _response_trailers(message: pb.ProcessingRequest) -> on.Trailers:
    return on.Trailers(of_response=True, told=_told(message))


_EVENTS: dict[str | None, Callable[[pb.ProcessingRequest], on.Event]] = {
    "request_headers": _request_headers,
    "request_body": _request_body,
    "request_trailers": _request_trailers,
    "response_headers": _response_headers,
    "response_body": _response_body,
    "response_trailers": _response_trailers,
}
"""How each kind of message is read."""


def _verified(message: pb.ProcessingRequest) -> dict[str, object] | None:
    if not message.HasField("metadata_context"):
        return None
    namespaces = message.metadata_context.filter_metadata
    if JWT_NAMESPACE not in namespaces:
        return None
    try:
        return MessageToDict(namespaces[JWT_NAMESPACE])
    except ValueError:  # a number that JSON has no form for: such claims are as good as none
        return None


def _route(message: pb.ProcessingRequest) -> str | None:
    # Sent only where the filter's request_attributes list it.
    for attributes in message.attributes.values():
        if ROUTE_ATTRIBUTE in attributes.fields:
            return attributes.fields[ROUTE_ATTRIBUTE].string_value or None
    return None


def _told(message: pb.ProcessingRequest) -> on.Told | None:
    if not message.HasField("metadata_context"):
        return None
    typed = message.metadata_context.typed_filter_metadata
    if USAGE_NAMESPACE not in typed:
        return None
    try:
        usage = pb.TokenUsage.FromString(typed[USAGE_NAMESPACE].value)
    except DecodeError:
        return None
    if usage.extraction_status != _COMPLETE:
        return None
    return on.Told(
        usage.model,
        usage.input_tokens.value if usage.HasField("input_tokens") else None,
        usage.output_tokens.value if usage.HasField("output_tokens") else None,
        usage.input_details.cached.value,
        usage.output_details.reasoning.value,
    )


def read_access_logs(data: bytes) -> list[tuple[str, int]]:
    """Exchange ids and lengths of answers' bodies, from one message of Envoy's access log service.

    Raises:
        CodecError: undecodable.
    """
    try:
        message = pb.StreamAccessLogsMessage.FromString(data)
    except DecodeError as fault:
        raise CodecError("not a StreamAccessLogsMessage") from fault
    found = []
    for entry in message.http_logs.log_entry:
        facts = entry.common_properties.metadata.filter_metadata
        if METADATA_NAMESPACE in facts:
            exchange_id = facts[METADATA_NAMESPACE].fields["exchange_id"].string_value
            found.append((exchange_id, entry.response.response_body_bytes))
    return found


def _headers(headers: pb.HeaderMap) -> on.Headers:
    lines = Lines(map(_LINE, headers.headers))
    if b"" in lines.firsts.values() or len(lines) != len(lines.firsts):
        # Envoy fills raw_value; value is for very old versions.
        return Lines([(h.key, h.raw_value or h.value.encode()) for h in headers.headers])
    return lines


def _reply(command: do.Reply) -> bytes:
    headers, body = b"", command.body
    if command.set_headers or command.remove_headers:
        headers = wire.header_mutation(command.set_headers, command.remove_headers)
    # Nearly every reply that changes something changes one thing.
    if command.mode is None and not command.reroute:
        if headers and body is None:
            return wire.before(_HEADERS_IN[command.phase], len(headers)) + headers
        if body and not headers and command.phase in _BODY_IN:
            return wire.before(_BODY_IN[command.phase], len(body)) + body
    return _mixed_reply(command, headers)


def _mixed_reply(command: do.Reply, headers: bytes) -> bytes:
    tag, has_response = _PHASES[command.phase]
    common = []
    if headers:
        place = wire.HEADER_MUTATION if has_response else wire.TRAILER_MUTATION
        common.append(wire.sized(place, headers))
    if command.body is not None:
        common += wire.wrapped(wire.BODY_MUTATION, wire.body_mutation(command.body))
    if command.reroute:
        common.append(wire.CLEAR_ROUTE_CACHE)
    parts = wire.wrapped(tag, wire.wrapped(_RESPONSE, common) if has_response else common)
    if command.mode is not None:
        parts.append(_MODES[command.mode])
    return b"".join(parts)


def _immediate(command: do.Respond) -> pb.ProcessingResponse:
    error = command.error
    lines = [
        _set_header(name, value.encode("latin-1", "replace"))
        for name, value in error.headers().items()
    ]
    message = pb.ProcessingResponse(
        immediate_response=pb.ImmediateResponse(
            status=pb.HttpStatus(code=error.status),
            headers=pb.HeaderMutation(set_headers=[line for line in lines if _valid(line)]),
            body=command.body,
            details=f"sentinel_{error.code}",
        )
    )
    if command.metadata is not None:
        facts = wire.metadata(METADATA_NAMESPACE, command.metadata)
        message.dynamic_metadata.MergeFromString(facts)
    return message


def _set_header(name: str, value: bytes) -> pb.HeaderValueOption:
    return pb.HeaderValueOption(
        header=pb.HeaderValue(key=name, raw_value=value),
        append_action=pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
    )


def _valid(line: pb.HeaderValueOption) -> bool:
    return valid_name(line.header.key) and valid_value(line.header.raw_value)


_PHASES = {
    phase: (number * 8 + 2, "trailers" not in phase.value)
    for phase in do.Phase
    if (number := pb.ProcessingResponse.DESCRIPTOR.fields_by_name[phase.value].number)
}
"""Of each kind of reply, its field's tag, and whether it has a ``CommonResponse`` in it."""

_RESPONSE = 1 * 8 + 2

_HEADERS_IN = {
    phase: (tag, _RESPONSE, wire.HEADER_MUTATION) if has_response else (tag, wire.TRAILER_MUTATION)
    for phase, (tag, has_response) in _PHASES.items()
}
_BODY_IN = {
    phase: (tag, _RESPONSE, wire.BODY_MUTATION, wire.BODY)
    for phase, (tag, has_response) in _PHASES.items()
    if has_response
}
"""Of each kind of reply, the fields that a change lies in."""

_METADATA = 8 * 8 + 2
_MODE_OVERRIDE = 9 * 8 + 2

_MODES = {
    mode: wire.sized(_MODE_OVERRIDE, message.SerializeToString())
    for mode, message in {
        do.Mode.REQUEST_AND_STREAM: pb.ProcessingMode(
            response_header_mode=pb.ProcessingMode.SEND,
            request_body_mode=pb.ProcessingMode.BUFFERED,
            response_body_mode=pb.ProcessingMode.STREAMED,
            # A request with trailers and no body is forwarded without a word about the body.
            request_trailer_mode=pb.ProcessingMode.SEND,
            response_trailer_mode=pb.ProcessingMode.SEND,
        ),
        # A request's trailers are asked for wherever it goes upstream: they are taken out.
        do.Mode.HEADERS_ONLY: pb.ProcessingMode(
            response_header_mode=pb.ProcessingMode.SEND,
            request_trailer_mode=pb.ProcessingMode.SEND,
        ),
        do.Mode.STREAM: pb.ProcessingMode(
            response_header_mode=pb.ProcessingMode.SEND,
            request_trailer_mode=pb.ProcessingMode.SEND,
            response_body_mode=pb.ProcessingMode.STREAMED,
            # Before trailers no piece of the body says that it is the last.
            response_trailer_mode=pb.ProcessingMode.SEND,
        ),
        do.Mode.TRAILERS_ONLY: pb.ProcessingMode(
            response_trailer_mode=pb.ProcessingMode.SEND,
        ),
        do.Mode.STREAM_BOTH: pb.ProcessingMode(
            response_header_mode=pb.ProcessingMode.SEND,
            request_body_mode=pb.ProcessingMode.STREAMED,
            request_trailer_mode=pb.ProcessingMode.SEND,
            response_body_mode=pb.ProcessingMode.STREAMED,
            response_trailer_mode=pb.ProcessingMode.SEND,
        ),
        do.Mode.NOTHING: pb.ProcessingMode(
            response_header_mode=pb.ProcessingMode.SKIP,
            request_trailer_mode=pb.ProcessingMode.SKIP,
            response_trailer_mode=pb.ProcessingMode.SKIP,
        ),
    }.items()
}

_MAX_SAID = 256
_MAX_SAID_BYTES = 8192
"""Of a reply that is kept: which headers it removes, the client has a say in."""

_SAID: dict[do.Reply, bytes] = {}
