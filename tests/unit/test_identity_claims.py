"""Credentials made from claims that Envoy verified: nobody else can make one."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel_extproc.errors import Forbidden, Unauthenticated
from sentinel_extproc.exchange.events import RequestHeaders
from sentinel_extproc.exchange.intake import verified_claims
from sentinel_extproc.identity.bearer import parse_bearer
from sentinel_extproc.identity.claim_names import ClaimNames
from sentinel_extproc.identity.claims import (
    claims_credential,
    credential_digest,
    read_credential,
)
from sentinel_extproc.identity.claims_source import ClaimsSource
from sentinel_extproc.identity.principal import Principal

ADA = {"iss": "https://issuer", "sub": "ext-ada", "aud": ["us", "them"], "exp": 1e9}


def token(claims: dict[str, Any], signature: str = "c2ln") -> str:
    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
        for part in ({"alg": "RS256"}, claims)
    ]
    return ".".join([*parts, signature])


def test_what_was_verified_is_read_back() -> None:
    assert read_credential(claims_credential({"p": ADA}, "p", "")) == ADA
    assert read_credential(claims_credential({"p": ADA}, "p", token(ADA))) == ADA


@pytest.mark.parametrize(
    "verified",
    [None, {}, {"other": ADA}, {"p": None}, {"p": "text"}, {"p": {}}, {"p": [ADA]}],
    ids=str,
)
def test_without_verified_claims_there_is_no_credential(verified: Any) -> None:
    with pytest.raises(Unauthenticated) as caught:
        claims_credential(verified, "p", token(ADA))
    assert "www-authenticate" in caught.value.headers()


def test_claims_are_bounded() -> None:
    with pytest.raises(Unauthenticated):
        claims_credential({"p": {"sub": "x" * 8192}}, "p", "")


def test_a_forwarded_token_names_its_credential_so_that_it_can_be_revoked() -> None:
    forwarded = token(ADA)
    credential = claims_credential({"p": ADA}, "p", forwarded)
    assert credential_digest(credential) == hashlib.sha256(forwarded.encode()).digest()


@pytest.mark.parametrize("sent", ["", "opaque", "a.b.c", "a.!.c", "..", token(ADA | {"sub": "bo"})])
def test_a_token_that_says_something_else_names_nothing(sent: str) -> None:
    own = credential_digest(claims_credential({"p": ADA}, "p", ""))
    assert credential_digest(claims_credential({"p": ADA}, "p", sent)) == own
    assert own != hashlib.sha256(sent.encode()).digest()


@given(st.binary(max_size=60))
async def test_no_token_that_a_client_sends_is_a_credential(value: bytes) -> None:
    try:
        sent = parse_bearer([b"Bearer " + value])
    except Unauthenticated:
        return
    with pytest.raises(Unauthenticated):
        await ClaimsSource().identify(sent)


@pytest.mark.parametrize("sent", ["", "\0", "x\0{}\0", '{"sub":"a"}', token(ADA)])
async def test_what_is_no_credential_is_refused(sent: str) -> None:
    with pytest.raises(Unauthenticated):
        await ClaimsSource().identify(sent)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values, min_size=1, max_size=4))
def test_any_claims_come_back_and_share_nothing_with_others(claims: dict[str, Any]) -> None:
    credential = claims_credential({"p": claims}, "p", "")
    assert credential.count("\0") == 2
    assert read_credential(credential) == claims
    other = claims_credential({"p": claims | {"more\0": "\0"}}, "p", "")
    assert (other == credential) == (claims == claims | {"more\0": "\0"})


async def test_claims_say_who_it_is() -> None:
    source = ClaimsSource(
        issuer="https://issuer",
        audience="us",
        names=ClaimNames(external_id="org_id", email="mail", plan="tier"),
    )
    claims = ADA | {"org_id": "ext-7", "mail": "a@example.org", "tier": "pro"}
    assert await source.identify(claims_credential({"p": claims}, "p", "")) == Principal(
        "ext-7", "ext-ada", "a@example.org", "pro"
    )


@pytest.mark.parametrize(
    "changes",
    [{"iss": "https://evil"}, {"iss": None}, {"aud": "them"}, {"aud": ["them"]}, {"aud": None}],
    ids=str,
)
async def test_claims_for_something_else_are_refused(changes: dict[str, Any]) -> None:
    source = ClaimsSource(issuer="https://issuer", audience="us")
    with pytest.raises(Unauthenticated):
        await source.identify(claims_credential({"p": ADA | changes}, "p", ""))


@pytest.mark.parametrize("subject", ["", "  ", None, 7, ["ext-ada"], "a\nb"], ids=str)
async def test_claims_that_name_nobody_who_can_be_billed(subject: Any) -> None:
    with pytest.raises(Forbidden):
        await ClaimsSource().identify(claims_credential({"p": ADA | {"sub": subject}}, "p", ""))


def test_headers_can_not_stand_in_for_metadata() -> None:
    credential = verified_claims("p")
    names = ["authorization", "x-jwt-payload", "envoy.filters.http.jwt_authn", "p"]
    forged = [(name, b"Bearer " + token(ADA).encode()) for name in names]
    with pytest.raises(Unauthenticated):
        credential(RequestHeaders(forged, end_of_stream=True), "")
    verified = RequestHeaders([], end_of_stream=True, verified={"p": ADA})
    assert read_credential(credential(verified, "")) == ADA
