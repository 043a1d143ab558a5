"""Bad bodies, each with its own clear refusal."""

from __future__ import annotations

import json

import pytest

from sentinel_extproc.endpoints.json_body import MAX_CONTAINERS, MAX_DEPTH, MAX_VALUES, parse_object
from sentinel_extproc.endpoints.table import CHAT
from sentinel_extproc.errors import InvalidRequest, PayloadTooLarge

M = b'"messages":[{"role":"user","content":"x"}]'

BAD_JSON: list[tuple[str, bytes | None, str]] = [
    ("none", None, "empty_body"),
    ("empty", b"", "empty_body"),
    ("text", b"hello", "invalid_json"),
    ("cut", b'{"model": "m"', "invalid_json"),
    ("array", b"[]", "invalid_json"),
    ("null", b"null", "invalid_json"),
    ("two values", b"{}{}", "invalid_json"),
    ("byte order mark", b"\xef\xbb\xbf{}", "invalid_json"),
    ("utf-16", '{"model":"m"}'.encode("utf-16"), "invalid_utf8"),
    ("bad utf-8", b'{"model":"\xff"}', "invalid_utf8"),
    ("overlong utf-8", b'{"model":"\xc0\xaf"}', "invalid_utf8"),
    ("surrogate in utf-8", b'{"model":"\xed\xa0\x80"}', "invalid_utf8"),
    ("nan", b'{"a":NaN}', "invalid_json"),
    ("infinity", b'{"a":-Infinity}', "invalid_json"),
    ("huge float", b'{"a":1e999}', "number_too_large"),
    ("huge integer", b'{"a":' + b"9" * 5000 + b"}", "number_too_large"),
    ("control character", b'{"a":"\x01"}', "invalid_json"),
    ("single quotes", b"{'a':1}", "invalid_json"),
    ("trailing comma", b'{"a":1,}', "invalid_json"),
    ("same key twice", b'{"model":"a","model":"b"}', "duplicate_key"),
    ("same key twice, escaped", b'{"model":"a","mod\\u0065l":"b"}', "duplicate_key"),
    ("same key twice, inside", b'{"a":[{"b":1,"b":2}]}', "duplicate_key"),
    ("deep arrays", b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}", "nested_too_deep"),
    ("deep objects", b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "nested_too_deep"),
    ("one too deep", b'{"a":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}", "nested_too_deep"),
]

BAD_CHAT: list[tuple[str, bytes, str | None]] = [
    ("no model", b"{" + M + b"}", "model"),
    ("model null", b'{"model":null,' + M + b"}", "model"),
    ("model number", b'{"model":4,' + M + b"}", "model"),
    ("model empty", b'{"model":" ",' + M + b"}", "model"),
    ("model long", b'{"model":"' + b"m" * 257 + b'",' + M + b"}", "model"),
    ("model with a line break", b'{"model":"a\\nb",' + M + b"}", "model"),
    ("model with a surrogate", b'{"model":"\\ud800",' + M + b"}", "model"),
    ("no messages", b'{"model":"m"}', "messages"),
    ("messages empty", b'{"model":"m","messages":[]}', "messages"),
    ("messages object", b'{"model":"m","messages":{}}', "messages"),
    ("message string", b'{"model":"m","messages":["x"]}', "messages[0]"),
    (
        "content number",
        b'{"model":"m","messages":[{"role":"user","content":1}]}',
        "messages[0].content",
    ),
    ("stream text", b'{"model":"m","stream":"true",' + M + b"}", "stream"),
    ("stream number", b'{"model":"m","stream":1,' + M + b"}", "stream"),
    ("stream_options list", b'{"model":"m","stream_options":[],' + M + b"}", "stream_options"),
    (
        "include_usage text",
        b'{"model":"m","stream":true,"stream_options":{"include_usage":"no"},' + M + b"}",
        "include_usage",
    ),
    ("max_tokens negative", b'{"model":"m","max_tokens":-1,' + M + b"}", "max_tokens"),
    ("max_tokens zero", b'{"model":"m","max_tokens":0,' + M + b"}", "max_tokens"),
    ("max_tokens text", b'{"model":"m","max_tokens":"9",' + M + b"}", "max_tokens"),
    ("max_tokens true", b'{"model":"m","max_tokens":true,' + M + b"}", "max_tokens"),
    ("max_tokens float", b'{"model":"m","max_tokens":1.5,' + M + b"}", "max_tokens"),
    (
        "max_tokens giant",
        b'{"model":"m","max_tokens":9223372036854775808,' + M + b"}",
        "max_tokens",
    ),
    (
        "max_completion_tokens",
        b'{"model":"m","max_completion_tokens":[],' + M + b"}",
        "max_completion_tokens",
    ),
    ("n giant", b'{"model":"m","n":1000000,' + M + b"}", "n"),
    ("n zero", b'{"model":"m","n":0,' + M + b"}", "n"),
]


@pytest.mark.parametrize(("body", "code"), [c[1:] for c in BAD_JSON], ids=[c[0] for c in BAD_JSON])
def test_bad_json(body: bytes | None, code: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_object(body)
    assert caught.value.code == code
    assert 400 <= caught.value.status < 500
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(("body", "param"), [c[1:] for c in BAD_CHAT], ids=[c[0] for c in BAD_CHAT])
def test_bad_chat(body: bytes, param: str | None) -> None:
    with pytest.raises(InvalidRequest) as caught:
        CHAT.plan(body)
    assert caught.value.param == param


def test_what_is_allowed() -> None:
    nested = b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1)
    assert parse_object(b' {"a":' + nested + b',"b":"\\ud800","c":1e300,"d":-0.0} ')["c"] == 1e300


def test_a_body_of_too_many_values_is_refused_before_it_is_decoded() -> None:
    for piece, most in (
        (b"[],", MAX_CONTAINERS),
        (b"{},", MAX_CONTAINERS),
        (b'"",', MAX_VALUES),
        (b"1,", MAX_VALUES),
        (b"1.5,", MAX_VALUES),
    ):
        body = b'{"x":[' + piece * most + b"1]}"
        with pytest.raises(PayloadTooLarge) as caught:
            parse_object(body)
        assert caught.value.code == "too_many_values"


def test_commas_and_brackets_in_text_are_no_values() -> None:
    text = '[{,\\"' * MAX_VALUES
    body = json.dumps({"x": text, "y": ["a,b"] * 10}).encode()
    assert parse_object(body)["x"] == text
