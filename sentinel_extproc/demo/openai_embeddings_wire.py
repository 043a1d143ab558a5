"""OpenAI's embeddings as they look on the wire. Pure."""

from __future__ import annotations

import base64
import hashlib
import math
import struct
from collections.abc import Sequence

from sentinel_extproc.demo.openai_wire import JsonObject

DIMENSIONS = {"text-embedding-3-large": 3072}
"""Components of a vector, where they aren't 1536."""

_DIMENSIONS = 1536


def vector(given: str | Sequence[int], dimensions: int) -> list[float]:
    """A vector of length 1 that depends on ``given`` alone, and says nothing about it."""
    seed = given.encode() if isinstance(given, str) else repr(list(given)).encode()
    noise = hashlib.shake_128(seed).digest(dimensions)
    components = [byte - 127.5 for byte in noise]
    length = math.sqrt(sum(component**2 for component in components))
    return [component / length for component in components]


def embeddings(
    model: str,
    given: Sequence[str | Sequence[int]],
    *,
    tokens: int,
    dimensions: int | None = None,
    as_base64: bool = False,
    with_usage: bool = True,
) -> JsonObject:
    """The answer: one vector for each input.

    Args:
        as_base64: little-endian float32 in base64, as the ``openai`` client asks for.
    """
    size = dimensions or DIMENSIONS.get(model, _DIMENSIONS)
    vectors = [vector(one, size) for one in given]
    data = [
        {"object": "embedding", "index": index, "embedding": _packed(v) if as_base64 else v}
        for index, v in enumerate(vectors)
    ]
    answer: JsonObject = {"object": "list", "data": data, "model": model}
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return answer | ({"usage": usage} if with_usage else {})


def _packed(components: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(components)}f", *components)).decode()
