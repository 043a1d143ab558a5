"""The bodies of control calls: what they mean, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest

from sentinel_extproc.admin.control import (
    Everybody,
    Token,
    User,
    describe,
    read_invalidate,
    read_revoke,
)
from sentinel_extproc.errors import InvalidRequest
from sentinel_extproc.identity.profile import MAX_EXTERNAL_ID

DIGEST = hashlib.sha256(b"sk-secret").digest()


def body(**fields: object) -> bytes:
    return json.dumps(fields).encode()


@pytest.mark.parametrize(
    ("given", "target"),
    [
        (body(token="sk-secret"), Token(DIGEST)),
        (body(token="sk-secret", owner="ada"), Token(DIGEST, "ada")),
        (body(token_sha256=DIGEST.hex()), Token(DIGEST)),
        (body(token_sha256=DIGEST.hex().upper()), Token(DIGEST)),
        (body(user="ada"), User("ada")),
        (body(user="Grüße 世界"), User("Grüße 世界")),
        (body(everybody=True), Everybody()),
        (body(everybody=False, user="u" * MAX_EXTERNAL_ID), User("u" * MAX_EXTERNAL_ID)),
    ],
)
def test_targets_of_a_revocation(given: bytes, target: object) -> None:
    order = read_revoke(given)
    assert order.target == target
    assert (order.streams, order.reason) == (False, "")


def test_streams_and_reason() -> None:
    order = read_revoke(body(user="ada", streams=True, reason="laptop lost"))
    assert (order.streams, order.reason) == (True, "laptop lost")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (b"", "can't be used"),
        (b"[]", "can't be used"),
        (b"\xff", "can't be used"),
        (b"[" * 8000, "can't be used"),
        (body(), "exactly one"),
        (body(user="a", everybody=True), "exactly one"),
        (body(token="a", token_sha256=DIGEST.hex()), "exactly one"),
        (body(user=""), "1 to 256"),
        (body(user="  "), "1 to 256"),
        (body(user="a\nb"), "1 to 256"),
        (body(user="a" * 257), "1 to 256"),
        (body(user=7), "can't be used"),
        (body(user="a", owner="b"), "owner belongs"),
        (body(token=""), "visible ASCII"),
        (body(token="Bearer sk"), "visible ASCII"),
        (body(token="t" * 8193), "visible ASCII"),
        (body(token_sha256="ab"), "64 hex"),
        (body(token_sha256="g" * 64), "64 hex"),
        (body(user="a", streams="yes"), "can't be used"),
        (body(user="a", reason="r" * 201), "reason"),
        (body(user="a", reason="a\nb"), "reason"),
        (body(users="a"), "unknown field"),
    ],
)
def test_a_body_that_means_nothing(given: bytes, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        read_revoke(given)


def test_a_refusal_never_repeats_a_secret() -> None:
    for given in (body(token="sk secret"), body(token=["sk-secret"]), b'{"token":"sk-secret'):
        with pytest.raises(InvalidRequest) as caught:
            read_revoke(given)
        assert "secret" not in caught.value.body().decode()


def test_invalidation_takes_no_token_itself() -> None:
    assert read_invalidate(body(user="ada")).target == User("ada")
    assert read_invalidate(body(token_sha256=DIGEST.hex())).target == Token(DIGEST)
    assert read_invalidate(body(everybody=True)).target == Everybody()
    for given in (body(token="sk-secret"), body(user="ada", streams=True), body()):
        with pytest.raises(InvalidRequest):
            read_invalidate(given)


def test_logs_name_a_token_by_a_part_of_its_digest() -> None:
    described = describe(Token(DIGEST, "ada"))
    assert described == {"kind": "token", "token_sha256": DIGEST.hex()[:12] + "…"}
    assert describe(User("ada")) == {"kind": "user", "user": "ada"}
    assert describe(Everybody()) == {"kind": "everybody"}


def test_a_jwt_is_also_known_by_what_its_signature_covers() -> None:
    header = base64.urlsafe_b64encode(b'{"alg":"ES256"}').decode().rstrip("=")
    payload = base64.urlsafe_b64encode(b'{"sub":"ada"}').decode().rstrip("=")
    covered = hashlib.sha256(f"{header}.{payload}".encode()).digest()
    for signature in ("AAAA", "BBBB"):
        token = f"{header}.{payload}.{signature}"
        order = read_revoke(json.dumps({"token": token}).encode())
        assert order.target == Token(hashlib.sha256(token.encode()).digest(), None, covered)
    told = {"token_sha256": "ab" * 32, "signed_sha256": covered.hex()}
    target = read_revoke(json.dumps(told).encode()).target
    assert target == Token(bytes.fromhex("ab" * 32), None, covered)
    assert read_revoke(b'{"token": "sk-opaque"}').target == Token(
        hashlib.sha256(b"sk-opaque").digest()
    )


@pytest.mark.parametrize(
    "body",
    [
        {"user": "ada", "signed_sha256": "ab" * 32},
        {"token_sha256": "ab" * 32, "signed_sha256": "ab"},
    ],
)
def test_a_signed_part_belongs_to_a_token_and_is_a_digest(body: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_revoke(json.dumps(body).encode())
    assert caught.value.param == "signed_sha256"
