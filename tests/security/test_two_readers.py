"""What is counted is what the provider reads, however its parser works; or it is refused."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel_extproc.endpoints import governing
from sentinel_extproc.endpoints.contract import Head
from sentinel_extproc.endpoints.governing import refuse_query
from sentinel_extproc.endpoints.json_body import parse_object
from sentinel_extproc.endpoints.multipart import FormScanner
from sentinel_extproc.endpoints.table import CHAT, MESSAGES, MODELS, OTHER, RESPONSES, match
from sentinel_extproc.errors import InvalidRequest, MethodNotAllowed, NotFound, SentinelError
from sentinel_extproc.exchange.events import RequestHeaders
from sentinel_extproc.exchange.headers import Upstream, to_provider
from sentinel_extproc.exchange.intake import read_opening
from sentinel_extproc.exchange.unreadable import content_type, refuse_unreadable
from sentinel_extproc.identity.principal import Principal

READ = ("model", "max_tokens", "n", "stream", "messages")
SPELLINGS = {
    "model": ["model", "Model", "MODEL", "mod\\u0065l", "model\\u0000", " model"],
    "max_tokens": [
        "max_tokens",
        "Max_Tokens",
        "maxTokens",
        "max-tokens",
        "max.tokens",
        "max tokens",
    ],
    "n": ["n", "N", "\uff4e"],
    "stream": ["stream", "Stream", "\u017ftream", "stream_"],
    "messages": ["messages", "Messages", "me\u017f\u017fages"],
}
TEXTS = {
    "model": ['"gpt-4o-mini"', '"gpt-5"'],
    "max_tokens": ["5", "100000"],
    "n": ["1", "100"],
    "stream": ["true", "false", "null"],
    "messages": ['[{"content":"a"}]', '[{"content":"b","Content":"c"}]', '[{"content":"b"}]'],
}
MEMBERS = st.sampled_from(READ).flatmap(
    lambda name: st.tuples(st.sampled_from(SPELLINGS[name]), st.sampled_from(TEXTS[name]))
)
BODIES = st.lists(MEMBERS, min_size=1, max_size=7).map(
    lambda members: "{" + ",".join(f'"{name}":{text}' for name, text in members) + "}"
)


def first_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return dict(reversed(pairs))


def regardless_of_case(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """As Go's and .NET's parsers do for fields that they know."""
    return {name.casefold(): value for name, value in pairs}


def camel_too(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """As protobuf's JSON does, and more leniently."""
    plain = {"maxtokens": "max_tokens"}
    folded = ((name.casefold().replace("_", "").replace("-", ""), v) for name, v in pairs)
    return {plain.get(name, name): value for name, value in folded}


def dots_and_blanks_too(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """As PHP does, which has no names with either."""
    return {
        name.lstrip(" ").partition("\0")[0].replace(".", "_").replace(" ", "_"): value
        for name, value in pairs
    }


READERS = (dict, first_wins, regardless_of_case, camel_too, dots_and_blanks_too)


@given(BODIES)
def test_every_parser_reads_what_was_counted(body: str) -> None:
    raw = body.encode()
    try:
        counted = parse_object(raw)
    except InvalidRequest:
        return
    for reader in READERS:
        read = json.loads(raw, object_pairs_hook=reader)
        assert [read.get(name) for name in READ] == [counted.get(name) for name in READ], reader


BASE = b'"model":"gpt-4o-mini","max_tokens":5,"messages":[{"role":"user","content":"hi"}]'


@pytest.mark.parametrize(
    "more",
    [
        '"Max_Tokens":100000',
        '"maxTokens":100000',
        '"MAX-TOKENS":100000',
        '"max_to\u212aens":100000',
        '"Model":"gpt-5"',
        '"N":128',
        '"Stream":true',
        '"\u017ftream":true',
        '"Messages":[]',
        '"model":"gpt-5"',
        '"max_tokens":100000',
        '"max\\u005ftokens":100000',
        '"max.tokens":100000',
        '"max tokens":100000',
        '" max_tokens":100000',
        '"max_tokens\\u0000":100000',
        '"Stream.Options":{}',
    ],
)
def test_a_second_spelling_is_refused(more: str) -> None:
    body = b"{" + BASE + b"," + more.encode() + b"}"
    for endpoint in (CHAT, MESSAGES, OTHER):
        with pytest.raises(InvalidRequest) as caught:
            endpoint.plan(body)
        assert caught.value.code in ("misspelt_name", "duplicate_key")


@pytest.mark.parametrize("name", ["Content", "CONTENT", "Role", "toolCalls", "Arguments"])
def test_so_it_is_inside_of_a_message(name: str) -> None:
    message = {"role": "user", "content": "hi", name: "a long prompt"}
    for body, endpoint in (
        ({"model": "m", "messages": [message]}, CHAT),
        ({"model": "m", "input": [message]}, RESPONSES),
    ):
        with pytest.raises(InvalidRequest) as caught:
            endpoint.plan(json.dumps(body).encode())
        assert caught.value.code == "misspelt_name"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "text", "text": "hi", "Text": "a long prompt"},
        {"type": "text", "text": "hi", "Type": "image_url"},
        {"type": "image_url", "image_url": {"url": "data:,"}, "imageUrl": {"url": "data:,"}},
        {"type": "image_url", "image_url": {"url": "data:,", "Detail": "high"}},
        {"type": "image_url", "image_url": {"url": "data:,", "URL": "data:image/png,"}},
        {"type": "input_audio", "input_audio": {"data": "", "Data": "AAAA"}},
        {"type": "file", "file": {"file_data": "", "fileData": "AAAA"}},
        {"type": "tool_result", "content": [{"type": "text", "text": "x", "TEXT": "a prompt"}]},
        {"type": "image", "source": {"type": "base64", "data": "", "DATA": "AAAA"}},
    ],
)
def test_so_it_is_inside_of_a_part(part: dict[str, Any]) -> None:
    message = {"role": "user", "content": [{"type": "text", "text": "hi"}, part]}
    for body, endpoint in (
        ({"model": "m", "max_tokens": 5, "messages": [message]}, CHAT),
        ({"model": "m", "max_tokens": 5, "messages": [message]}, MESSAGES),
        ({"model": "m", "input": [message]}, RESPONSES),
        ({"model": "m", "messages": [message], "system": [part], "max_tokens": 5}, MESSAGES),
    ):
        with pytest.raises(InvalidRequest) as caught:
            endpoint.plan(json.dumps(body).encode())
        assert caught.value.code == "misspelt_name"


def test_names_that_only_go_with_a_part_pass() -> None:
    parts = [
        {"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}},
        {"type": "image_url", "image_url": {"url": "data:,", "detail": "low"}},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x"}},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"Type": 1, "text": 2, "Text": 3}},
    ]
    message = {"role": "user", "content": parts, "name": "ada"}
    body = {"model": "m", "max_tokens": 5, "messages": [message], "system": parts[:1]}
    assert MESSAGES.plan(json.dumps(body).encode()).model == "m"


@pytest.mark.parametrize(
    "name",
    [
        "n[]",
        "n[0]",
        "N[]",
        "model[]",
        "model[a]",
        "prompt[]",
        "max.tokens",
        "max tokens",
        "max[tokens",
    ],
)
def test_a_field_of_a_form_that_some_read_as_a_governing_one_is_unclear(name: str) -> None:
    scanner = FormScanner(b"X")
    for field, value in (("model", "m"), (name, "10")):
        lines = f'--X\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'
        scanner.feed(lines.encode())
    scanner.feed(b"--X--\r\n")
    assert "take for another" in scanner.form.unclear


@pytest.mark.parametrize("name", ["image[]", "include[]", "timestamp_granularities[]", "user"])
def test_lists_that_a_form_may_have_pass(name: str) -> None:
    scanner = FormScanner(b"X")
    for value in ("a", "b")[: 1 + name.endswith("[]")]:
        scanner.feed(
            f'--X\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        )
    scanner.feed(b"--X--\r\n")
    assert scanner.form.complete
    assert not scanner.form.unclear


def test_so_it_is_where_a_stream_is_asked_for_its_usage() -> None:
    options = '"stream":true,"stream_options":{"include_usage":true,"Include_Usage":false}'
    with pytest.raises(InvalidRequest) as caught:
        CHAT.plan(b"{" + BASE + b"," + options.encode() + b"}")
    assert caught.value.code == "misspelt_name"


def test_names_of_any_length_are_looked_at_and_long_ones_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept: list[str] = []
    plain = governing._plain

    def remembered(name: str) -> str:
        kept.append(name)
        return plain(name)

    monkeypatch.setattr(governing, "_plain", remembered)
    for number in range(3):
        long = "\U0001f600" + str(number) + "x" * 100_000
        assert CHAT.plan(b"{" + BASE + f',"{long}":1}}'.encode()).model
    with pytest.raises(InvalidRequest) as caught:
        CHAT.plan(b"{" + BASE + b',"' + b"_" * 1000 + b'Model":"gpt-5"}')
    assert caught.value.code == "misspelt_name"
    assert kept
    assert max(map(len, kept)) <= 64


def test_names_inside_of_a_schema_are_the_clients() -> None:
    schema = {"type": "object", "properties": {"Model": {}, "model": {}, "maxTokens": {}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "tools": [tool]}
    assert CHAT.plan(json.dumps(body).encode()).model == "m"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"\xef\xbb\xbf{" + BASE + b"}", "invalid_json"),
        (("{" + BASE.decode() + "}").encode("utf-16"), "invalid_utf8"),
        (("{" + BASE.decode() + "}").encode("utf-16-le"), "invalid_json"),
        (("{" + BASE.decode() + "}").encode("utf-32"), "invalid_utf8"),
        (b"{" + BASE + b"}\x00", "invalid_json"),
        (b"{" + BASE + b"}{" + BASE + b"}", "invalid_json"),
        (b"{" + BASE + b',"stream":"true"}', "invalid_request"),
        (b"{" + BASE + b',"stream":1}', "invalid_request"),
        (b"{" + BASE + b',"n":-1}', "invalid_request"),
        (b"{" + BASE + b',"n":1e2}', "invalid_request"),
        (b"{" + BASE + b',"n":"100"}', "invalid_request"),
        (b"{" + BASE + b',"n":[100]}', "invalid_request"),
        (b"{" + BASE + b',"max_completion_tokens":-9223372036854775808}', "invalid_request"),
        (b"{" + BASE + b',"max_completion_tokens":99999999999999999999}', "invalid_request"),
        (b"{" + BASE + b',"max_completion_tokens":1.0}', "invalid_request"),
        (b"{" + BASE + b',"a":01}', "invalid_json"),
        (b"{" + BASE + b',/*"n":100*/"a":1}', "invalid_json"),
    ],
)
def test_what_parsers_differ_on_is_refused(body: bytes, code: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        CHAT.plan(body)
    assert caught.value.code == code


def test_a_null_stream_is_none() -> None:
    plan = CHAT.plan(b"{" + BASE + b',"stream":null}')
    assert (plan.streams, plan.upstream_body) == (False, None)


PATHS_REFUSED = [
    "/v1/uploads/../chat/completions",
    "/v1/uploads/%2e%2e/chat/completions",
    "/v1/uploads/%2E./chat/completions",
    "/v1/uploads/..%2fchat/completions",
    "/v1/uploads/..%5cchat/completions",
    "/v1/uploads/..;/chat/completions",
    "/v1/uploads/%252e%252e/chat/completions",
    "/v1/uploads/%%32%65%%32%65/chat/completions",
    "/v1/uploads/%c0%ae%c0%ae/chat/completions",
    "/v1/uploads/%e0%80%ae%e0%80%ae/chat/completions",
    "/v1/uploads/%ef%bc%8e%ef%bc%8e/chat/completions",
    "/v1/uploads/%u002e%u002e/chat/completions",
    "/v1/uploads/%2/chat/completions",
    "/v1/uploads/%",
    "/v1/uploads/%0d%0aGET%20/v1/models",
    "/v1/uploads/%23/../chat",
    "/v1/uploads/%3f",
    "/v1/files#/../chat/completions",
    "/v1/files\x00",
    "/v1/files\x0d\x0aa:b",
    "/v1/f\xc3\xadles",
    "/v1\\files",
    "//v1/files",
    "/v1//files",
    "/v1/./files",
]


@pytest.mark.parametrize("target", PATHS_REFUSED)
def test_a_path_with_two_readings_is_refused(target: str) -> None:
    with pytest.raises((InvalidRequest, NotFound)):
        match("POST", target)


@given(st.lists(st.sampled_from([*"/.%;\\?#", "2e", "2f", "5c", "25", "v1", "files", "chat"])))
def test_a_path_that_is_taken_means_the_same_when_it_is_unescaped_again(parts: list[str]) -> None:
    target = "/v1/" + "".join(parts)
    try:
        endpoint = match("POST", target).endpoint
    except SentinelError:
        return
    path = target.partition("?")[0]
    for _ in range(3):
        path = unquote(path)
        assert "/../" not in f"{path}/"
        assert match("POST", path).endpoint is endpoint


@given(st.lists(st.sampled_from([*"/.%;\\?#a", "2e", "2f", "2F", "5c", "25", "%2F", "files"])))
def test_a_models_name_with_a_slash_is_read_one_way_too(parts: list[str]) -> None:
    target = "/v1/models/" + "".join(parts)
    try:
        found = match("GET", target)
    except SentinelError:
        return
    assert found.endpoint is MODELS
    assert "%2f" not in found.path.lower(), "limits by path see what it may become"
    path = target.partition("?")[0]
    for _ in range(3):
        path = unquote(path)
        assert "/../" not in f"{path}/"
        assert path.startswith("/v1/models/")
        assert match("GET", path).endpoint is MODELS


@pytest.mark.parametrize(
    "query",
    [
        *("max_tokens=1", "Max_Tokens=1", "maxTokens=1", "n=100", "model=gpt-5", "stream=true"),
        *("messages[0][content]=x", "a=1&n=9", "%6e=100", "n", "_method=GET", "x=1&_METHOD=POST"),
        *("a=1;model=x", "a=1;;n=9", ";n", "max.tokens=1", "max+tokens=1", "max[tokens=1"),
        *("n[]=9", "n%5B0%5D=9", ".method=GET", "x=1;_method=POST"),
        "&".join(f"a{n}=1" for n in range(200)),
    ],
)
def test_a_query_that_could_govern_is_refused(query: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        refuse_query(f"/v1/chat/completions?{query}", reads_body=True)
    assert caught.value.code == "ambiguous_query"


def test_other_queries_pass() -> None:
    refuse_query("/v1/chat/completions?api-version=2024-10-21&beta=true&trace", reads_body=True)
    refuse_query("/v1/chat/completions?model=gpt-4o&limit=9", reads_body=False)
    refuse_query("/v1/chat/completions?a=1;b=model;c&method=x&include[]=usage", reads_body=True)


@pytest.mark.parametrize(
    "method", [b"TRACE", b"TRACK", b"DEBUG", b"post", b"PROPFIND", b"", b"GET\x00", b"POST "]
)
def test_methods_that_no_api_has_are_refused(method: bytes) -> None:
    """TRACE above all: its answer would show the client what the provider got, our key included."""
    with pytest.raises(MethodNotAllowed):
        refuse_unreadable([(":method", method), (":path", b"/v1/models")])


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (b"application/json; charset=utf-16", "unsupported_charset"),
        (b"application/json; charset=UTF-7", "unsupported_charset"),
        (b'application/json; charset="utf-7"', "unsupported_charset"),
        (b"application/json; charset=utf-8; charset=utf-7", "unsupported_charset"),
        (b"application/json; charset*=utf-7''x", "unsupported_charset"),
        (b"application/json; CHARSET = latin1", "unsupported_charset"),
        (b"application/json, text/plain", "ambiguous_type"),
    ],
)
def test_other_charsets_and_second_types_are_refused(kind: bytes, code: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        refuse_unreadable([(":method", b"POST"), ("content-type", kind)])
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        (b"application/json", ()),
        (b"application/json; charset=utf-8", ()),
        (b"Application/JSON;charset=UTF-8", ()),
        (b"", ()),
        (b"application/x-www-form-urlencoded", (("content-type", b"application/json"),)),
        (b"text/plain; charset=utf-8", (("content-type", b"application/json"),)),
        (b"application/json; boundary=x", (("content-type", b"application/json"),)),
        (b"application/jsonp", (("content-type", b"application/json"),)),
    ],
)
def test_what_was_read_as_json_is_called_json(
    kind: bytes, sent: tuple[tuple[str, bytes], ...]
) -> None:
    headers = [("content-type", kind)] if kind else []
    head = Head("/v1/chat/completions", kind.decode())
    assert content_type(headers, head, CHAT) == sent
    assert content_type(headers, head, OTHER) == ()


def opening(
    method: bytes, path: bytes, *, end: bool, extra: tuple[str, bytes] | None = None
) -> Any:
    lines = [(":method", method), (":path", path), ("authorization", b"Bearer t")]
    found = match(method.decode(), path.decode())
    return read_opening(found, RequestHeaders([*lines, *([extra] if extra else [])], end))


@pytest.mark.parametrize("method", [b"GET", b"DELETE", b"HEAD"])
def test_a_call_that_reads_has_no_body(method: bytes) -> None:
    """A server that goes by the body and not by the method would generate something."""
    with pytest.raises(InvalidRequest) as caught:
        opening(method, b"/v1/chat/completions", end=False)
    assert caught.value.code == "unexpected_body"
    assert opening(method, b"/v1/chat/completions", end=True).plan is not None
    # Some HTTP/2 clients end a request that has no body by an empty frame.
    none = ("content-length", b"0")
    assert opening(method, b"/v1/chat/completions", end=False, extra=none).plan is not None


SPOOFED = [
    *("x-sentinel-user", "x-sentinel-email", "x_sentinel_user", "x-sentinel_exchange-id"),
    *("x-sentinel-meter", "x-http-method-override", "x_http_method_override", "x-http-method"),
    *("x-method-override", "x-original-url", "x-rewrite-url", "x-forwarded-host", "forwarded"),
    *("x-forwarded-prefix", "cookie", "proxy-authorization", "x-api-key", "x_api_key", "api_key"),
    *("openai-organization", "openai_project", "content_length", "transfer_encoding", "trailer"),
    "content_type",
]


@pytest.mark.parametrize("name", SPOOFED)
def test_headers_that_only_we_may_send_are_taken_out(name: str) -> None:
    upstream = Upstream((("authorization", b"Bearer sk"),), tell_identity=True)
    ada = Principal("ext-ada", "u", "ada@example.org")
    set_headers, removed = to_provider([(name, b"spoofed")], upstream, ada, "x-1")
    assert name in removed or name in dict(set_headers)
    assert b"spoofed" not in dict(set_headers).values()


@pytest.mark.parametrize("name", ["session_id", "x-request-tag", "openai-beta", "x_custom", "te"])
def test_other_headers_stay(name: str) -> None:
    upstream = Upstream((("authorization", b"Bearer sk"),))
    _, removed = to_provider([(name, b"1")], upstream, Principal("e", "u", ""), "x-1")
    assert not removed


@pytest.mark.parametrize(
    "part",
    [
        b'Content-Disposition: form-data; name="n"; filename=""\r\n\r\n9',
        b'Content-Disposition: form-data; name="n"; name="m"\r\n\r\n9',
        b"Content-Disposition: form-data; name=\"n\"; name*=utf-8''m\r\n\r\n9",
        b"Content-Disposition: form-data\r\n\r\n9",
        b'Content-Disposition: form-data; name="N"\r\n\r\n9',
        b'Content-Disposition: form-data; name="n"\r\ncontent-transfer-encoding: base64\r\n\r\n9',
        b'Content-Disposition: form-data; name="n"\r\nContent-Disposition: x; name="m"\r\n\r\n9',
        b'Content-Disposition: form-data; name="n"\r\n X: folded\r\n\r\n9',
        b'Content-Disposition: form-data; name="n"\n\r\n\r\n9',
        b'Content-Disposition: attachment; name="n"\r\n\r\n9',
    ],
)
def test_a_part_of_a_form_with_two_readings_is_unclear(part: bytes) -> None:
    scanner = FormScanner(b"X")
    scanner.feed(b"--X\r\n" + part + b"\r\n--X--\r\n")
    assert scanner.form.unclear
