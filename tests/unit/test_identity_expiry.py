"""Reading ``exp`` from what looks like a JWT."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel_extproc.identity.expiry import JwtClaims, read_jwt


def segment(value: object) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def jwt(payload: object, header: object = None) -> str:
    return f"{segment(header or {'alg': 'RS256'})}.{segment(payload)}.c2ln"


@pytest.mark.parametrize(
    ("token", "claims"),
    [
        (jwt({"exp": 1700000000}), JwtClaims(1700000000.0)),
        (jwt({"exp": 1700000000.5, "sub": "x"}), JwtClaims(1700000000.5)),
        (jwt({"exp": -1}), JwtClaims(-1.0)),
        (jwt({"sub": "x"}), JwtClaims(None)),
        (jwt({"exp": None}), JwtClaims(None)),
        (jwt({"exp": "1700000000"}), None),
        (jwt({"exp": True}), None),
        (jwt(b'{"exp": 1e999}'), None),
        (jwt([1]), None),
        (jwt(b"\xff"), None),
        (jwt({"exp": 1}, header={"typ": "JWT"}), None),
        (jwt(b"[" * 3000), None),
        ("sk-abc123", None),
        ("", None),
        ("..", None),
        ("a.b", None),
        ("a.b.c", None),
        ("a.b.c.d.e", None),
        ("version.1.2", None),
    ],
)
def test_read(token: str, claims: JwtClaims | None) -> None:
    assert read_jwt(token) == claims


@given(st.text(max_size=200) | st.from_regex(r"[A-Za-z0-9_-]{0,40}(\.[A-Za-z0-9_-]{0,40}){2}"))
def test_never_fails(token: str) -> None:
    claims = read_jwt(token)
    assert claims is None or isinstance(claims, JwtClaims)
