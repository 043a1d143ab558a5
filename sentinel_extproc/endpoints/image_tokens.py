"""What images cost in tokens, by OpenAI's image generation guide. Pure.

Measured against recorded usage: 4160 for 1024 × 1024 at high quality, 1056 at medium, 194 for one
given square image.
"""

from __future__ import annotations

import math
import re

PROMPT = 6
"""Around an image's prompt."""

PARTIAL = 100
"""For each partial image of a stream."""

_SQUARE = 1024 * 1024
_LARGEST = 4096 * 4096
_QUALITIES = {"low": 272, "medium": 1056, "high": 4160, "standard": 1056, "hd": 4160}
"""For 1024 × 1024; what depends on size goes with the area."""

_AUTO = 4160
_AUTO_PIXELS = 1024 * 1536
_GIVEN = 323
"""65 + 129 for each of two tiles, once the shorter side is scaled to 512."""

_GIVEN_HIGH = 6240
_SIZE = re.compile(r"([1-9]\d{1,4})x([1-9]\d{1,4})")


def made(size: str, quality: str) -> int:
    """Output tokens of one image; ``size`` as in requests, anything unknown taken for ``auto``."""
    found = _SIZE.fullmatch(size)
    pixels = min(int(found[1]) * int(found[2]), _LARGEST) if found else _AUTO_PIXELS
    return math.ceil(_QUALITIES.get(quality, _AUTO) * pixels / _SQUARE)


def given(fidelity: str) -> int:
    """Input tokens of one image that is given."""
    return _GIVEN + (_GIVEN_HIGH if fidelity == "high" else 0)
