"""Meters for answers that aren't event streams. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from msgspec import Struct

from sentinel_extproc.endpoints.contract import CounterFactory, Deferred, Reading
from sentinel_extproc.endpoints.provider_usage import ReadUsage, decode, find_member, read_usage
from sentinel_extproc.endpoints.texts import Texts
from sentinel_extproc.usage.record import TokenUsage

MAX_JSON_BYTES = 16 << 20
"""An unstreamed answer is kept whole up to here; any text that a model writes fits."""

BYTES_PER_TOKEN = 4
"""English text in UTF-8, for answers that can't be read; such usage is marked as estimated."""

EDGE_BYTES = 16 << 10
"""Kept of an answer's beginning or end to find ``usage`` in. Behind it come at most a ``metadata``
object of 16 × 576 characters and a few short members."""


def tokens_by_size(size: int) -> int:
    """Tokens in ``size`` bytes of text, rounded up."""
    return math.ceil(size / BYTES_PER_TOKEN)


class Whole(Struct, frozen=True, gc=False):
    """What a JSON answer says, read by its endpoint.

    Attributes:
        pieces: all generated text, as (which text, piece).
    """

    reported: TokenUsage | None = None
    pieces: Iterable[tuple[str, str]] = ()
    so_far: TokenUsage | None = None
    exact: bool = True
    deferred: bool = False
    deferrals: tuple[Deferred, ...] = ()


class _Unchanging:
    """The part of a meter that never changes or delays a byte."""

    rewrites = False
    volume = 0
    partial = 0
    finished = False
    waiting = 0
    held = b""


class OpaqueMeter(_Unchanging):
    """Only counts bytes: compressed or otherwise unreadable answers."""

    def __init__(self) -> None:
        self._size = 0

    def feed(self, chunk: bytes, *, end: bool) -> bytes | None:  # noqa: ARG002
        self._size += len(chunk)
        return None

    def reading(self) -> Reading:
        return Reading(output_tokens=tokens_by_size(self._size))


class FixedMeter(_Unchanging):
    """For answers whose tokens follow from the request.

    Args:
        output_tokens: what the whole answer is taken for.
    """

    def __init__(self, output_tokens: int) -> None:
        self._output = output_tokens

    def feed(self, chunk: bytes, *, end: bool) -> bytes | None:  # noqa: ARG002
        return None

    def reading(self) -> Reading:
        return Reading(output_tokens=self._output)


class EdgeMeter(_Unchanging):
    """Keeps both ends of a large JSON answer and looks for ``usage`` and ``model`` there.

    For vectors and images: decoding megabytes of them would stall other exchanges, and there is no
    text in them to be counted.

    Args:
        output_tokens: what the answer is taken for when it has no ``usage``.
        read: understands its usage.
    """

    def __init__(self, *, output_tokens: int = 0, read: ReadUsage = read_usage) -> None:
        self._output = output_tokens
        self._read = read
        self._head = b""
        self._tail = Tail()

    def feed(self, chunk: bytes, *, end: bool) -> bytes | None:  # noqa: ARG002
        if len(self._head) < EDGE_BYTES:
            self._head += chunk[: EDGE_BYTES - len(self._head)]
        self._tail.add(chunk)
        return None

    def reading(self) -> Reading:
        edges = (self._tail.bytes(), self._head)
        usage = next((u for e in edges if (u := self._read(find_member(e, "usage")))), None)
        model = next((m for e in edges if (m := text_of(find_member(e, "model")))), None)
        return Reading(reported=usage, output_tokens=self._output, model_served=model)


class JsonMeter(_Unchanging):
    """Keeps one JSON answer up to a bound and reads it when asked.

    Args:
        read: understands the endpoint's answers.
    """

    def __init__(
        self,
        model: str,
        counters: CounterFactory,
        read: Callable[[dict[str, Any]], Whole],
        *,
        max_bytes: int = MAX_JSON_BYTES,
    ) -> None:
        self._model = model
        self._counters = counters
        self._read = read
        self._max = max_bytes
        self._chunks: list[bytes] = []
        self._size = 0
        self._tail = Tail()

    @property
    def waiting(self) -> int:  # type: ignore[override]
        # Mostly there is a usage, so that it is decoded, which is quick, and nothing is counted.
        return len(self._chunks) and self._size // 4

    def feed(self, chunk: bytes, *, end: bool) -> bytes | None:  # noqa: ARG002
        self._size += len(chunk)
        if self._size <= self._max:
            self._chunks.append(chunk)
            return None
        if self._chunks:
            self._tail.add(b"".join(self._chunks)[-EDGE_BYTES:])
            self._chunks.clear()
        self._tail.add(chunk)
        return None

    def reading(self) -> Reading:
        if self._size > self._max:
            reported = read_usage(find_member(self._tail.bytes(), "usage"))
            return Reading(reported=reported, output_tokens=tokens_by_size(self._size))
        answer = decode(b"".join(self._chunks))
        if not isinstance(answer, dict):
            return Reading(output_tokens=tokens_by_size(self._size))
        whole = self._read(answer)
        counted, exact = (0, False) if whole.reported is not None else self._count(whole)
        return Reading(
            reported=whole.reported,
            so_far=whole.so_far,
            output_tokens=counted,
            exact=exact,
            model_served=text_of(answer.get("model")) or None,
            failed=isinstance(answer.get("error"), dict),
            deferred=whole.deferred,
            deferrals=whole.deferrals,
        )

    def _count(self, whole: Whole) -> tuple[int, bool]:
        """Tokens of all its text, and whether that is all that was generated."""
        texts = Texts(self._model, self._counters)
        for key, text in whole.pieces:
            texts.add(key, text)
        return texts.total(), whole.exact and bool(texts.volume)


class Tail:
    """The last ``EDGE_BYTES`` of what was added."""

    __slots__ = ("_chunks", "_size")

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._size = 0

    def add(self, chunk: bytes) -> None:
        self._chunks.append(chunk[-EDGE_BYTES:])
        self._size += len(self._chunks[-1])
        if self._size > 8 * EDGE_BYTES or len(self._chunks) > 1024:
            self._chunks = [self.bytes()]
            self._size = len(self._chunks[0])

    def bytes(self) -> bytes:
        return b"".join(self._chunks)[-EDGE_BYTES:]


def text_of(value: Any) -> str:
    """``value`` if it is a text, else an empty one."""
    return value if isinstance(value, str) else ""
