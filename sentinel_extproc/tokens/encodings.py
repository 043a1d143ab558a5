"""The two shipped encodings, and counting that no text can break.

Ranks are package data (``scripts/make_encodings.py`` derives them); nothing is ever downloaded.
A file holds, zlib-compressed, one length byte per token in rank order and then all tokens' bytes
joined: ranks are dense from 0, so the position is the rank. The SHA-256 of the uncompressed
payload is pinned here, which holds whatever compressor wrote the file.
"""

from __future__ import annotations

import hashlib
import re
import threading
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from itertools import accumulate, pairwise
from typing import Final

import tiktoken
from tiktoken import registry

MAX_PIECE_CHARS: Final = 8_192
"""Longest text handed to the tokenizer at once. Its regular expression gives up (a panic) at about
a million blanks, and a shorter piece keeps one call, which can't be cancelled, under 5 ms, whatever
the text: answers are counted on the event loop, and a piece without a boundary again and again."""

_MAX_PAYLOAD_BYTES: Final = 16 * 1024 * 1024

_BLANKS: Final = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
# Scripts whose letters carry no combining marks, so that the class of each is the same in every
# Unicode version and both patterns: ASCII, Cyrillic, kana, Han, Hangul.
_LETTERS: Final = "A-Za-z\u0410-\u044f\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fa5\uac00-\ud7a3"
# The apostrophe is missing on purpose: it may continue a word ('s, 'll).
_MARKS: Final = (
    r"!\"#$%&()*+,\-./:;<=>?@\[\\\]^_`{|}~"
    "\u3001\u3002\u300c\u300d\uff01\uff08\uff09\uff0c\uff1a\uff1b\uff1f"
)

# Places where a pre-token of either pattern always ends, whatever surrounds them. Only
# punctuation swallows the line break after it; only blanks look ahead.
_BOUNDARY: Final = re.compile(
    rf"(?<=[^{_BLANKS}])(?=[ \t])|(?<=[{_LETTERS}0-9])(?=[{_BLANKS}{_MARKS}])"
    rf"|(?<=[{_LETTERS}])(?=[0-9])"
)
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_SURROGATES: Final = re.compile("[\ud800-\udfff]+")
_PAIR: Final = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_NOT_BLANK: Final = re.compile(f"[^{_BLANKS}]")


@dataclass(frozen=True, slots=True)
class Shipped:
    """What is needed to build one encoding.

    Attributes:
        tokens: number of mergeable tokens.
        sha256: of the uncompressed payload, hexadecimal.
        pattern: the pre-token pattern, in the syntax of Rust's fancy-regex.
        special_tokens: name to rank; only so that the built encoding is complete.
    """

    tokens: int
    sha256: str
    pattern: str
    special_tokens: dict[str, int]


SHIPPED: Final[dict[str, Shipped]] = {
    "cl100k_base": Shipped(
        tokens=100_256,
        sha256="18288f996f452d44e0e65996176591a4b712a3eb1b42afd6f0511e735c099480",
        pattern=(
            r"'(?i:[sdmt]|ll|ve|re)"
            r"|[^\r\n\p{L}\p{N}]?+\p{L}++"
            r"|\p{N}{1,3}+"
            r"| ?[^\s\p{L}\p{N}]++[\r\n]*+"
            r"|\s++$"
            r"|\s*[\r\n]"
            r"|\s+(?!\S)"
            r"|\s"
        ),
        special_tokens={
            "<|endoftext|>": 100257,
            "<|fim_prefix|>": 100258,
            "<|fim_middle|>": 100259,
            "<|fim_suffix|>": 100260,
            "<|endofprompt|>": 100276,
        },
    ),
    "o200k_base": Shipped(
        tokens=199_998,
        sha256="440741350e7cfa1c0f4869ce742d1b043550adbda5187adcac9e787edac6fba9",
        pattern=(
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
            r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
            r"|\p{N}{1,3}"
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]*"
            r"|\s*[\r\n]+"
            r"|\s+(?!\S)"
            r"|\s+"
        ),
        special_tokens={"<|endoftext|>": 199999, "<|endofprompt|>": 200018},
    ),
}


class EncodingDataError(RuntimeError):
    """The shipped ranks are missing, damaged or not the ones this version expects."""


def pack(tokens: Iterable[bytes]) -> bytes:
    """The uncompressed payload of tokens in rank order, each 1 to 255 bytes long."""
    tokens = list(tokens)
    return bytes(map(len, tokens)) + b"".join(tokens)


def unpack(name: str, payload: bytes) -> dict[bytes, int]:
    """Ranks by token from the payload of :func:`pack`.

    Raises:
        EncodingDataError: the payload isn't the one pinned for ``name``.
    """
    shipped = SHIPPED[name]
    if hashlib.sha256(payload).hexdigest() != shipped.sha256:
        raise EncodingDataError(f"the ranks of {name} don't have the pinned SHA-256")
    ends = accumulate(payload[: shipped.tokens], initial=shipped.tokens)
    return {payload[start:end]: rank for rank, (start, end) in enumerate(pairwise(ends))}


def _read_payload(name: str) -> bytes:
    try:
        packed = resources.files(__package__).joinpath("data", f"{name}.ranks").read_bytes()
        return zlib.decompressobj().decompress(packed, _MAX_PAYLOAD_BYTES)
    except (OSError, zlib.error) as error:
        raise EncodingDataError(f"the ranks of {name} can't be read: {error}") from error


_build_lock = threading.Lock()
_built: dict[str, tiktoken.Encoding] = {}


def encoding(name: str) -> tiktoken.Encoding:
    """The shared encoding ``name``, built at its first use; safe to call from any thread.

    It is also put into tiktoken's registry, so that ``tiktoken.get_encoding(name)`` elsewhere in
    the process finds it instead of downloading.

    Raises:
        KeyError: not a shipped encoding.
        EncodingDataError: its ranks are missing or damaged.
    """
    built = _built.get(name)
    if built is not None:
        return built
    shipped = SHIPPED[name]
    with _build_lock:
        if name not in _built:
            made = tiktoken.Encoding(
                name=name,
                pat_str=shipped.pattern,
                mergeable_ranks=unpack(name, _read_payload(name)),
                special_tokens=shipped.special_tokens,
            )
            # Its core has copied them, and nothing but pickling looks at them again, which goes by
            # name for what is registered. A third of the memory of both encodings.
            made._mergeable_ranks = {}  # noqa: SLF001
            _built[name] = registry.ENCODINGS.setdefault(name, made)
    return _built[name]


def preload() -> None:
    """Build every shipped encoding now (about 0.4 s of CPU), so that no request waits for it.

    Raises:
        EncodingDataError: ranks are missing or damaged.
    """
    for name in SHIPPED:
        encoding(name)


def late_boundary(text: str, end: int | None = None) -> int:
    """A ``p`` in ``1..end-1``, late in the text, at which a pre-token surely ends; 0 if none does.

    ``count(text[:p]) + count(text[p:]) == count(text)`` for both encodings and any text around.
    The last word break is tried first because it is found at once; else the last of all is
    searched for, in windows from the end, each twice as long as the one before.
    """
    end = len(text) if end is None else min(end, len(text))
    blank = text.rfind(" ", 1, end)
    if blank > 0 and end - blank <= 256 and _NOT_BLANK.match(text, blank - 1):
        return blank
    width = 256
    high = end
    while high > 1:
        low = max(1, high - width)
        found = 0
        for match in _BOUNDARY.finditer(text, low, high):
            if match.start() < high:
                found = match.start()
        if found:
            return found
        high = low
        width *= 2
    return 0


def next_cut(text: str, start: int, max_piece_chars: int) -> int:
    """Where to end the piece at ``start`` of a text that goes on for more than a piece.

    A hard cut is made only if the whole piece has no boundary. So, when ``start`` is a boundary or
    a cut, all hard cuts lie at multiples of ``max_piece_chars`` from the last boundary before
    them: they depend on the text alone, not on how it arrived.
    """
    window = text[start : start + max_piece_chars + 1]
    return start + (late_boundary(window) or max_piece_chars)


def _conservative(text: str) -> int:
    # No byte-pair encoding makes more tokens than there are bytes; text averages four bytes a
    # token. Refusing a hostile text is better than letting it through uncounted.
    return len(text.encode("utf-8", "surrogatepass"))


def _without_surrogates(text: str) -> str:
    # As tiktoken repairs them, but a thousand times faster: it calls an error handler for each.
    if not _SURROGATE.search(text):
        return text
    text = _PAIR.sub(lambda pair: pair[0].encode("utf-16", "surrogatepass").decode("utf-16"), text)
    return _SURROGATES.sub(lambda run: "\ufffd" * len(run[0]), text)


def _count_piece(built: tiktoken.Encoding, text: str) -> int:
    # encode_ordinary takes <|endoftext|> and its like as plain text.
    if not text.isascii():
        text = _without_surrogates(text)
    try:
        return len(built.encode_ordinary(text))
    except Exception:  # noqa: BLE001 - counting must never fail a request
        return _conservative(text)
    except BaseException as panic:
        # A panic of the Rust core derives from BaseException; anything else (an interrupt, a
        # cancellation) is none of ours.
        if type(panic).__name__ != "PanicException":
            raise
        return _conservative(text)


def count(name: str, text: str, *, max_piece_chars: int = MAX_PIECE_CHARS) -> int:
    """Tokens of ``text`` under the encoding ``name``; never raises for any ``str``.

    Longer texts are counted in pieces cut at pre-token boundaries. Only where a run has none for
    ``max_piece_chars`` characters is it cut hard, which can add a token per cut.
    """
    built = _built.get(name) or encoding(name)
    if len(text) <= max_piece_chars:
        return _count_piece(built, text)
    total = 0
    start = 0
    while len(text) - start > max_piece_chars:
        end = next_cut(text, start, max_piece_chars)
        total += _count_piece(built, text[start:end])
        start = end
    return total + _count_piece(built, text[start:])
