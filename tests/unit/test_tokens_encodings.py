"""The shipped ranks are the published ones, and no text can break a count."""

from __future__ import annotations

import base64
import hashlib
import pickle
import threading
import zlib
from unittest import mock

import pytest
import tiktoken
from tiktoken_ext import openai_public  # type: ignore[import-untyped]

from sentinel_extproc.tokens import encodings

NAMES = sorted(encodings.SHIPPED)

# Counted with bpe-openai, an implementation that shares no code with tiktoken.
EXPECTED = [
    ("", 0, 0),
    ("hello world", 2, 2),
    ("The quick brown fox jumps over the lazy dog.", 10, 10),
    ("<|endoftext|>", 7, 7),
    ("2024-05-13T12:00:00Z", 13, 13),
    ("日本語のテキスト", 8, 6),
    ("    indented\n\n\tcode();\r\n", 6, 6),
]


@pytest.mark.parametrize(("text", "cl100k", "o200k"), EXPECTED)
def test_known_counts(text: str, cl100k: int, o200k: int) -> None:
    assert (encodings.count("cl100k_base", text), encodings.count("o200k_base", text)) == (
        cl100k,
        o200k,
    )


@pytest.mark.parametrize("name", NAMES)
def test_ranks_have_the_hash_that_tiktoken_expects(name: str) -> None:
    ranks = encodings.unpack(name, encodings._read_payload(name))
    lines = (
        b"%s %d\n" % (base64.b64encode(token), rank)
        for token, rank in sorted(ranks.items(), key=lambda item: item[1])
    )
    digest = hashlib.sha256(b"".join(lines)).hexdigest()
    expected = []

    def load(_url: str, expected_hash: str) -> dict[bytes, int]:
        expected.append(expected_hash)
        return ranks

    with mock.patch.object(openai_public, "load_tiktoken_bpe", load):
        definition = openai_public.ENCODING_CONSTRUCTORS[name]()
    assert [digest] == expected
    assert definition["pat_str"] == encodings.SHIPPED[name].pattern
    assert definition["special_tokens"] == encodings.SHIPPED[name].special_tokens


@pytest.mark.parametrize("name", NAMES)
def test_tiktoken_finds_ours_without_downloading(name: str) -> None:
    ours = encodings.encoding(name)
    assert tiktoken.get_encoding(name) is ours


@pytest.mark.parametrize("name", NAMES)
def test_an_encoding_keeps_no_second_copy_of_its_ranks_and_can_be_pickled(name: str) -> None:
    ours = encodings.encoding(name)
    assert not ours._mergeable_ranks
    again = pickle.loads(pickle.dumps(ours))  # noqa: S301 - made here
    assert again.decode(ours.encode_ordinary("kept whole")) == "kept whole"


def test_one_encoding_is_built_whatever_the_number_of_threads() -> None:
    seen = []
    barrier = threading.Barrier(8)

    def look() -> None:
        barrier.wait(10)
        seen.append(encodings.encoding("cl100k_base"))

    with mock.patch.dict(encodings._built, clear=True):
        threads = [threading.Thread(target=look) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert len(seen) == 8
    assert len(set(map(id, seen))) == 1


def test_damaged_ranks_are_refused() -> None:
    payload = bytearray(encodings._read_payload("cl100k_base"))
    payload[-1] ^= 1
    with pytest.raises(encodings.EncodingDataError, match="SHA-256"):
        encodings.unpack("cl100k_base", bytes(payload))


def test_a_file_that_unpacks_beyond_the_bound_is_refused() -> None:
    payload = encodings._read_payload("cl100k_base")
    with (
        mock.patch.object(encodings, "_MAX_PAYLOAD_BYTES", len(payload) - 1),
        pytest.raises(encodings.EncodingDataError),
    ):
        encodings.unpack("cl100k_base", encodings._read_payload("cl100k_base"))


@pytest.mark.parametrize("content", [b"", b"not zlib", zlib.compress(b"x")])
def test_an_unreadable_file_is_one_kind_of_error(content: bytes) -> None:
    with (
        mock.patch("pathlib.Path.read_bytes", return_value=content),
        pytest.raises(encodings.EncodingDataError),
    ):
        encodings.unpack("o200k_base", encodings._read_payload("o200k_base"))


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("a" * 1_000_000, 125_000, 125_100),
        (" " * 2_000_000, 15_625, 31_300),
        ("\n" * 1_000_000, 31_250, 62_600),
        ("<|endoftext|><|im_start|><|fim_prefix|>" * 100, 1_601, 1_701),
        ("\ud800", 1, 3),
        ("\ud83d\ude00", 1, 2),
        ("\udc00 \ud800" * 1000, 2_000, 8_000),
        ("\u200b\u200d\ufeff" * 1000, 1_000, 9_000),
        ("\x00" * 1000, 250, 1_000),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_hostile_text_is_counted(name: str, text: str, least: int, most: int) -> None:
    assert least <= encodings.count(name, text) <= most


def test_a_panic_of_the_core_becomes_a_conservative_count() -> None:
    panic = type("PanicException", (BaseException,), {})
    built = mock.Mock()
    built.encode_ordinary.side_effect = panic("backtrack limit")
    assert encodings._count_piece(built, "añ\ud800") == 6


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_is_not_swallowed(error: type[BaseException]) -> None:
    built = mock.Mock()
    built.encode_ordinary.side_effect = error
    with pytest.raises(error):
        encodings._count_piece(built, "text")


def test_long_text_is_counted_as_if_uncut() -> None:
    text = "Der schnelle Fuchs, 12345 Mal: don't stop!\n\tjump();\r\n" * 4000
    built = encodings.encoding("o200k_base")
    assert encodings.count("o200k_base", text) == len(built.encode_ordinary(text))
