"""Our wire subset against Envoy's own definitions: same numbers, same types, same spellings."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from sentinel_extproc.envoyconf import api
from sentinel_extproc.transport.pb import sentinel_ext_proc_pb2 as pb

PROTO_TYPES = {
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BYTES: "bytes",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_UINT32: "uint32",
    FieldDescriptor.TYPE_UINT64: "uint64",
    FieldDescriptor.TYPE_ENUM: "enum",
    FieldDescriptor.TYPE_MESSAGE: "message",
}
"""betterproto2's words for protobuf's types."""

MESSAGES: dict[str, type[Any]] = {
    "HeaderValue": api.core.HeaderValue,
    "HeaderValueOption": api.core.HeaderValueOption,
    "HeaderMap": api.core.HeaderMap,
    "Metadata": api.core.Metadata,
    "HttpHeaders": api.ext_proc_service.HttpHeaders,
    "HttpBody": api.ext_proc_service.HttpBody,
    "HttpTrailers": api.ext_proc_service.HttpTrailers,
    "ProcessingRequest": api.ext_proc_service.ProcessingRequest,
    "HeaderMutation": api.ext_proc_service.HeaderMutation,
    "BodyMutation": api.ext_proc_service.BodyMutation,
    "CommonResponse": api.ext_proc_service.CommonResponse,
    "HeadersResponse": api.ext_proc_service.HeadersResponse,
    "BodyResponse": api.ext_proc_service.BodyResponse,
    "TrailersResponse": api.ext_proc_service.TrailersResponse,
    "HttpStatus": api.types.HttpStatus,
    "ImmediateResponse": api.ext_proc_service.ImmediateResponse,
    "ProcessingMode": api.ext_proc.ProcessingMode,
    "ProcessingResponse": api.ext_proc_service.ProcessingResponse,
    "AccessLogCommon": api.access_log_data.AccessLogCommon,
    "HTTPResponseProperties": api.access_log_data.HttpResponseProperties,
    "HTTPAccessLogEntry": api.access_log_data.HttpAccessLogEntry,
    "HTTPAccessLogEntries": api.access_log_service.StreamAccessLogsMessageHttpAccessLogEntries,
    "StreamAccessLogsMessage": api.access_log_service.StreamAccessLogsMessage,
}

NOT_THERE = {"Any", "UInt64Value", "TokenUsage"}
"""Well-known types, and what envoy-data-plane doesn't have yet; tests/envoy/test_native_metering.py
reads it as the real Envoy sends it."""

ENUMS: dict[str, type[Any]] = {
    "HeaderValueOption.AppendAction": api.core.HeaderValueOptionHeaderAppendAction,
    "CommonResponse.ResponseStatus": api.ext_proc_service.CommonResponseResponseStatus,
    "ProcessingMode.HeaderSendMode": api.ext_proc.ProcessingModeHeaderSendMode,
    "ProcessingMode.BodySendMode": api.ext_proc.ProcessingModeBodySendMode,
}

# An enum there and an int32 here are the same varint.
SAME_ON_THE_WIRE = {("HttpStatus", "code"): ("int32", "enum")}


def ours(name: str) -> Descriptor:
    return pb.DESCRIPTOR.message_types_by_name[name]


def test_every_message_of_ours_is_compared() -> None:
    assert set(pb.DESCRIPTOR.message_types_by_name) == set(MESSAGES) | NOT_THERE


@pytest.mark.parametrize("name", MESSAGES)
def test_fields(name: str) -> None:
    theirs = {
        field.name: field.metadata["betterproto"]
        for field in dataclasses.fields(MESSAGES[name])
        if "betterproto" in field.metadata
    }
    for field in ours(name).fields:
        assert field.name in theirs, f"Envoy has no {name}.{field.name}"
        envoy = theirs[field.name]
        assert field.number == envoy.number, field.name
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            assert envoy.map_meta is not None
            kinds = [PROTO_TYPES[f.type] for f in field.message_type.fields]
            assert kinds == [meta.proto_type for meta in envoy.map_meta]
            continue
        pair = (PROTO_TYPES[field.type], envoy.proto_type)
        assert pair[0] == pair[1] or SAME_ON_THE_WIRE.get((name, field.name)) == pair
        assert field.is_repeated == envoy.repeated
        assert (field.containing_oneof.name if field.containing_oneof else None) == envoy.group


@pytest.mark.parametrize("name", ENUMS)
def test_enums(name: str) -> None:
    message, enum = name.split(".")
    for value in ours(message).enum_types_by_name[enum].values:
        assert ENUMS[name](value.number).name == value.name


def test_a_message_of_ours_reads_the_same_in_envoys_types() -> None:
    sent = pb.ProcessingResponse(
        request_body=pb.BodyResponse(
            response=pb.CommonResponse(
                header_mutation=pb.HeaderMutation(
                    set_headers=[
                        pb.HeaderValueOption(
                            header=pb.HeaderValue(key="a", raw_value=b"\xff"),
                            append_action=pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
                        )
                    ],
                    remove_headers=["b"],
                ),
                body_mutation=pb.BodyMutation(body=b"new"),
            )
        ),
        mode_override=pb.ProcessingMode(response_body_mode=pb.ProcessingMode.STREAMED),
    )
    read = api.ext_proc_service.ProcessingResponse.parse(sent.SerializeToString())
    assert read.request_body is not None
    common = read.request_body.response
    assert common is not None
    assert common.header_mutation is not None
    assert common.body_mutation is not None
    assert read.mode_override is not None
    header = common.header_mutation.set_headers[0].header
    assert header is not None
    assert (header.key, header.raw_value) == ("a", b"\xff")
    assert common.header_mutation.remove_headers == ["b"]
    assert common.body_mutation.body == b"new"
    assert read.mode_override.response_body_mode.name == "STREAMED"
