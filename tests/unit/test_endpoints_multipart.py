"""Forms: what is read of them, what is refused, what is bounded."""

from __future__ import annotations

import pytest

from sentinel_extproc.endpoints.contract import Head
from sentinel_extproc.endpoints.form import read_form
from sentinel_extproc.endpoints.multipart import (
    HEAD_BYTES,
    MAX_FIELD_BYTES,
    MAX_PART_HEADERS,
    MAX_PARTS,
    File,
    FormScanner,
    boundary_of,
)
from sentinel_extproc.errors import InvalidRequest

TYPE = "multipart/form-data; boundary=XX"


def part(value: bytes, disposition: bytes = b'form-data; name="a"', *more: bytes) -> bytes:
    lines = b"".join(b"\r\n" + line for line in more)
    return b"--XX\r\nContent-Disposition: " + disposition + lines + b"\r\n\r\n" + value + b"\r\n"


def scan(*parts: bytes) -> FormScanner:
    scanner = FormScanner(b"XX")
    scanner.feed(b"".join(parts))
    return scanner


FILE = b'form-data; name="file"; filename="a;\\"b.wav"'


def test_fields_and_files() -> None:
    sound = b"RIFF" + bytes(range(256)) * 9
    form = scan(
        part(b"whisper-1", b'form-data; name="model"'),
        part(sound, FILE, b"Content-Type: audio/wav"),
        part(b"", b"form-data; name=empty"),
        part(b"a--XX\r\n-XX", b'Form-Data; Name="tricky"'),
        b"--XX--\r\nepilogue",
    ).form
    assert form.fields == {"model": "whisper-1", "empty": "", "tricky": "a--XX\r\n-XX"}
    assert form.files == [File("file", 'a;"b.wav', sound[:HEAD_BYTES], len(sound))]
    assert (form.unclear, form.complete) == ("", True)


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        (TYPE, b"XX"),
        ('multipart/form-data; charset=utf-8; boundary="a b:c"', b"a b:c"),
        ("Multipart/Form-Data;Boundary=YY", b"YY"),
        ("multipart/form-data", None),
        ("multipart/form-data; boundary=", None),
        ("multipart/form-data; boundary=" + "x" * 71, None),
        ("multipart/mixed; boundary=XX", None),
        ("application/json", None),
        ("", None),
    ],
)
def test_boundaries(content_type: str, boundary: bytes | None) -> None:
    assert boundary_of(content_type) == boundary


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--XX--",
        part(b"x") + b"--XX",
        part(b"x")[:20],
        b"preamble\r\n" + part(b"x") + b"--XX--",
        part(b"x") + part(b"y") + b"--XX--",
        part(b"\xff") + b"--XX--",
        part(b"x", b"form-data") + b"--XX--",
        part(b"x", b'form-data; name="a"; name="b"') + b"--XX--",
        part(b"x", b'form-data; name="a"', b'Content-Disposition: form-data; name="b"') + b"--XX--",
        part(b"x", b'form-data; name="a"', b"Content-Transfer-Encoding: base64") + b"--XX--",
        part(b"x", b'form-data; name="a"', b"no colon") + b"--XX--",
        part(b"x", b'form-data; name="a"', b"X: " + b"h" * MAX_PART_HEADERS) + b"--XX--",
        b"--XXtail\r\nA: b\r\n\r\nx\r\n--XX--",
        b"--XX" + b" " * (2 * MAX_PART_HEADERS) + b"\r\n",
        part(b"x" * (MAX_FIELD_BYTES + 1)) + b"--XX--",
        b"".join(part(b"x" * 60_000, b"form-data; name=f%d" % n) for n in range(5)) + b"--XX--",
        b"".join(part(b"", b"form-data; name=f%d" % n) for n in range(MAX_PARTS + 1)) + b"--XX--",
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(body: bytes) -> None:
    if body == b"--XX--":  # an empty form is clear, and its endpoint misses its fields
        assert read_form(body, Head(content_type=TYPE)).complete
        return
    with pytest.raises(InvalidRequest) as caught:
        read_form(body, Head(content_type=TYPE))
    assert caught.value.code == "invalid_form"


def test_lists_may_repeat_their_name() -> None:
    name = b'form-data; name="include[]"'
    assert not scan(part(b"a", name), part(b"b", name), b"--XX--").form.unclear


def test_memory_stays_bounded_whatever_passes() -> None:
    scanner = scan(part(b"m", b"form-data; name=model"), part(b"", FILE)[:-2])
    for _ in range(200):
        scanner.feed(b"x" * 65_536)
    assert 0 <= 200 * 65_536 - scanner.form.files[0].size < len(b"\r\n--XX")
    assert len(scanner.form.files[0].head) == HEAD_BYTES
    assert len(scanner._buffer) < 100
    for junk in (b"--XX\r\nA:", part(b"")[:-2]):
        scanner = scan(junk)
        for _ in range(100):
            scanner.feed(b"y" * 10_000)
        kept = sum(len(piece) for piece in scanner._value or [])
        assert len(scanner._buffer) + kept < 2 * MAX_FIELD_BYTES
        assert scanner.form.unclear
