"""What a changed key file means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel_extproc.credentials.facts import KeysRefused, KeysTaken
from sentinel_extproc.credentials.rotation import (
    MAX_BYTES,
    KeyFileError,
    Rotation,
    Stamp,
    parse_keys,
)

FIRST = Stamp((1, 1), 100, 4)


def taken(raw: bytes = b"old\n") -> Rotation:
    rotation = Rotation("azure")
    assert rotation.wants(FIRST)
    assert rotation.take(FIRST, raw) == KeysTaken("azure", 1)
    return rotation


@pytest.mark.parametrize(
    ("raw", "keys"),
    [(b"sk-1", ("sk-1",)), (b" sk-1 \r\n\n", ("sk-1",)), (b"a\nb\n", ("a", "b"))],
)
def test_keys_are_lines(raw: bytes, keys: tuple[str, ...]) -> None:
    assert parse_keys(raw) == keys


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\n \n",
        b"two words",
        b"a\x00b",
        b"\xff",
        "é".encode(),
        b"k" * 4097,
        b"a\na",
        b"\n".join(b"%d" % n for n in range(17)),
        b"k" * (MAX_BYTES + 1),
    ],
)
def test_what_is_no_key_is_refused(raw: bytes) -> None:
    with pytest.raises(KeyFileError):
        parse_keys(raw)


def test_a_file_that_everybody_may_write_is_refused() -> None:
    with pytest.raises(KeyFileError, match="everybody"):
        parse_keys(b"sk", 0o666)
    assert parse_keys(b"sk", 0o644) == ("sk",)


@given(st.binary(max_size=200))
def test_no_complaint_shows_what_is_in_the_file(raw: bytes) -> None:
    with pytest.raises(KeyFileError) as refused:
        parse_keys(b"secret marker " + raw)
    assert "marker" not in str(refused.value)


def test_an_unchanged_file_isnt_read_again() -> None:
    rotation = taken()
    assert not rotation.wants(FIRST)
    assert not rotation.wants(FIRST)


def test_a_replaced_file_is_read_at_once() -> None:
    rotation = taken()
    replaced = Stamp((1, 2), 200, 4)
    assert rotation.wants(replaced)
    assert rotation.take(replaced, b"new\n") == KeysTaken("azure", 1)
    assert rotation.keys == ("new",)


def test_a_file_written_in_place_is_read_when_it_has_come_to_rest() -> None:
    rotation = taken()
    half, whole = Stamp((1, 1), 200, 2), Stamp((1, 1), 201, 4)
    assert not rotation.wants(half)
    assert not rotation.wants(whole)
    assert rotation.wants(whole)


def test_bad_content_keeps_the_old_keys_and_is_told_once() -> None:
    rotation = taken()
    bad = Stamp((1, 2), 200, 0)
    fact = rotation.take(bad, b"")
    assert fact == KeysRefused("azure", "there is no key in it")
    assert rotation.keys == ("old",)
    assert not rotation.wants(bad)
    assert rotation.take(Stamp((1, 3), 300, 0), b"") is None
    good = Stamp((1, 4), 400, 3)
    assert rotation.wants(good)
    assert rotation.take(good, b"new") == KeysTaken("azure", 1)


def test_a_file_that_is_gone_is_told_once() -> None:
    rotation = taken()
    assert rotation.complain("gone") == KeysRefused("azure", "gone")
    assert rotation.complain("gone") is None
    assert rotation.keys == ("old",)


def test_the_same_keys_in_a_new_file_are_no_change() -> None:
    rotation = taken()
    keys = rotation.keys
    assert rotation.take(Stamp((1, 2), 200, 3), b"old") is None
    assert rotation.keys is keys
