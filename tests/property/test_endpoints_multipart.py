"""Forms read the same whatever the split, and nothing makes the scanner raise."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from sentinel_extproc.endpoints.multipart import FormScanner

NAMES = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=8)
PARTS = st.lists(
    st.tuples(NAMES, st.booleans(), st.binary(max_size=60)), max_size=5, unique_by=lambda p: p[0]
)
BITS = st.lists(
    st.sampled_from(
        [
            *(b"--XX", b"\r\n", b"--", b"\r", b"\n", b"XX", b":", b"\xff", b"x"),
            *(b'Content-Disposition: form-data; name="a"', b'; filename="b"', b"Content-"),
        ]
    ),
    max_size=30,
)


def read(body: bytes, cuts: list[int]) -> FormScanner:
    scanner = FormScanner(b"XX")
    places = sorted({0, len(body), *(cut % (len(body) + 1) for cut in cuts)})
    for start, end in itertools.pairwise(places):
        scanner.feed(body[start:end])
    return scanner


@given(PARTS, st.lists(st.integers(0, 10_000)))
def test_a_form_is_read_back(parts: list[tuple[str, bool, bytes]], cuts: list[int]) -> None:
    parts = [p for p in parts if b"\r\n--XX" not in p[2] and not p[2].startswith(b"--XX")]
    body = b""
    for name, is_file, value in parts:
        extra = '; filename="f"' if is_file else ""
        head = f'--XX\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n\r\n'
        body += head.encode() + value + b"\r\n"
    form = read(body + b"--XX--\r\n", cuts).form
    assert form.complete
    assert [(f.name, f.head, f.size) for f in form.files] == [
        (name, value, len(value)) for name, is_file, value in parts if is_file
    ]
    if not form.unclear:
        assert form.fields == {n: v.decode() for n, is_file, v in parts if not is_file}


@given(BITS, st.lists(st.integers(0, 10_000)))
def test_every_split_reads_alike(bits: list[bytes], cuts: list[int]) -> None:
    body = b"".join(bits)
    whole, split = read(body, []).form, read(body, cuts).form
    assert (split.fields, split.unclear, split.complete) == (
        whole.fields,
        whole.unclear,
        whole.complete,
    )
    if whole.complete:
        assert split.files == whole.files
    bytewise = read(body, list(range(len(body)))).form
    assert (bytewise.fields, bytewise.complete) == (whole.fields, whole.complete)
