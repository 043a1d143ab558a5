"""From the wire to the machine: only jwt_authn's metadata reaches authentication."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct

from sentinel_extproc.exchange import commands as do
from sentinel_extproc.exchange import events as on
from sentinel_extproc.exchange.headers import Upstream
from sentinel_extproc.exchange.intake import Credential, bearer, verified_claims
from sentinel_extproc.exchange.machine import Exchange
from sentinel_extproc.exchange.providers import only
from sentinel_extproc.identity.claims import read_credential
from sentinel_extproc.tokens.estimator import TokenEstimator
from sentinel_extproc.transport.codec import JWT_NAMESPACE, decode
from sentinel_extproc.transport.pb import sentinel_ext_proc_pb2 as pb

CLAIMS = {"sub": "ext-a", "aud": ["x"], "exp": 1_800_000_000, "deep": {"a": [None, True, 0.5]}}


def message(namespaces: dict[str, dict[str, Any]], **headers: str) -> bytes:
    made = pb.ProcessingRequest()
    lines = {":method": "POST", ":path": "/v1/chat/completions", **headers}
    for name, value in lines.items():
        made.request_headers.headers.headers.add(key=name, raw_value=value.encode())
    for name, content in namespaces.items():
        struct = Struct()
        struct.update(content)
        made.metadata_context.filter_metadata[name].CopyFrom(struct)
    return made.SerializeToString()


def first(data: bytes, credential: Credential) -> do.Command:
    exchange = Exchange(
        exchange_id="x",
        started_at_ms=0,
        choose=only(Upstream((("authorization", b"Bearer k"),))),
        counters=TokenEstimator().output_counter,
        credential=credential,
    )
    (command,) = exchange.handle(decode(data))
    return command


def test_verified_claims_arrive_as_they_are() -> None:
    data = message({JWT_NAMESPACE: {"p": CLAIMS}, "other": {"p": {"sub": "evil"}}})
    event = decode(data)
    assert isinstance(event, on.RequestHeaders)
    assert event.verified == {"p": CLAIMS}
    command = first(data, verified_claims("p"))
    assert isinstance(command, do.Authenticate)
    assert read_credential(command.token) == CLAIMS


@pytest.mark.parametrize("namespaces", [{}, {"other": {"p": CLAIMS}}, {JWT_NAMESPACE: {}}])
def test_anything_else_is_a_401(namespaces: dict[str, dict[str, Any]]) -> None:
    command = first(message(namespaces, authorization="Bearer t", p="{}"), verified_claims("p"))
    assert isinstance(command, do.Respond)
    assert command.error.status == 401


def test_with_another_source_metadata_means_nothing() -> None:
    data = message({JWT_NAMESPACE: {"p": CLAIMS}}, authorization="Bearer t")
    assert first(data, bearer) == do.Authenticate("t")
    command = first(message({JWT_NAMESPACE: {"p": CLAIMS}}), bearer)
    assert isinstance(command, do.Respond)
    assert command.error.status == 401
