"""The Authorization header: every way in which it can be wrong is told apart, and is a 401."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel_extproc.errors import Unauthenticated
from sentinel_extproc.identity.bearer import MAX_TOKEN_BYTES, parse_bearer


@pytest.mark.parametrize(
    ("value", "token"),
    [
        (b"Bearer sk-abc123", "sk-abc123"),
        ("Bearer sk-abc123", "sk-abc123"),
        (b"bearer x", "x"),
        (b"BEARER x", "x"),
        (b"  Bearer x\t", "x"),  # optional white space around a field value, RFC 9110, 5.5
        (b"Bearer eyJhbGciOi.eyJz-_.c2ln", "eyJhbGciOi.eyJz-_.c2ln"),
        (b"Bearer a+/~==", "a+/~=="),
        (b"Bearer " + b"x" * MAX_TOKEN_BYTES, "x" * MAX_TOKEN_BYTES),
    ],
)
def test_tokens(value: bytes | str, token: str) -> None:
    assert parse_bearer([value]) == token


WRONG = {
    "none": ([], "No API key was given"),
    "empty": ([b""], "is empty"),
    "blank": ([b" \t "], "is empty"),
    "twice": ([b"Bearer a", b"Bearer a"], "more than once"),
    "joined": ([b"Bearer a,Bearer b"], "more than one value"),
    "joined with a blank": ([b"Bearer a, Bearer b"], "more than one value"),
    "scheme alone": ([b"Bearer"], "has no key"),
    "scheme and blank": ([b"Bearer "], "has no key"),
    "basic": ([b"Basic dXNlcjpwYXNz"], "Only the Bearer scheme"),
    "bare key": ([b"sk-abc123"], "Only the Bearer scheme"),
    "longer scheme": ([b"BearerX abc"], "Only the Bearer scheme"),
    "two blanks": ([b"Bearer  abc"], "blanks in it"),
    "blank inside": ([b"Bearer a b"], "blanks in it"),
    "tab between": ([b"Bearer\tabc"], "control characters"),
    "line break": ([b"Bearer a\r\nx-evil: 1"], "control characters"),
    "newline at the end": ([b"Bearer abc\n"], "control characters"),
    "NUL": ([b"Bearer a\0b"], "control characters"),
    "DEL": ([b"Bearer a\x7fb"], "control characters"),
    "no-break space": (["Bearer\u00a0abc"], "can't be read"),
    "not ASCII": (["Bearer ключ"], "characters that no key has"),
    "not UTF-8": ([b"Bearer \xff\xfe"], "characters that no key has"),
    "lone surrogate": (["Bearer \ud800"], "characters that no key has"),
    "one byte too long": ([b"Bearer " + b"x" * (MAX_TOKEN_BYTES + 1)], "longer than 8192"),
    "far too long": ([b"Bearer " + b"x" * 10_000_000], "longer than 8192"),
    "far too long and blank": ([b" " * 10_000_000], "longer than 8192"),
}


@pytest.mark.parametrize(("values", "message"), WRONG.values(), ids=WRONG.keys())
def test_refused(values: list[bytes | str], message: str) -> None:
    with pytest.raises(Unauthenticated) as caught:
        parse_bearer(values)
    error = caught.value
    assert message in error.message
    assert error.status == 401
    assert error.code == "invalid_api_key"
    assert error.headers()["www-authenticate"].startswith('Bearer realm="sentinel"')


@given(st.lists(st.binary(max_size=40) | st.text(max_size=40), max_size=3))
def test_anything_is_a_clean_token_or_a_401(values: list[bytes | str]) -> None:
    with contextlib.suppress(Unauthenticated):
        token = parse_bearer(values)
        assert token
        assert all(0x21 <= ord(letter) <= 0x7E and letter != "," for letter in token)
