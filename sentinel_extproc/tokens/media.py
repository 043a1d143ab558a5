"""Images, audio and files inside a request: what can be told from the bytes that are there.

Sizes come from the first bytes of a data URL; nothing is decoded whole and nothing is fetched.
Formulas: OpenAI's vision guide (tiles, 32-pixel patches), Anthropic's (area / 750).
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from typing import Final

from sentinel_extproc.tokens.family import Images

_HEAD_BYTES: Final = 64 * 1024
"""Enough for the size of a JPEG behind a large EXIF block."""

_TEXT_TYPES: Final = ("text/", "application/json", "application/xml", "application/yaml")
_MAX_TEXT_BYTES: Final = 1_500_000

Size = tuple[int, int]


def data_url_head(url: str) -> bytes:
    """The first bytes of a base64 data URL; empty if it isn't one."""
    if url[:5].lower() != "data:":
        return b""
    comma = url.find(",", 0, 512)
    if comma < 0 or not url[:comma].endswith(";base64"):
        return b""
    return base64_head(url[comma + 1 : comma + 1 + _HEAD_BYTES * 4 // 3])


def data_url_text(url: str) -> str:
    """The text of a base64 data URL of a text type, at most a megabyte of it; empty if it isn't."""
    comma = url.find(",", 0, 512)
    kind = url[5:comma].lower()
    if url[:5].lower() != "data:" or not kind.startswith(_TEXT_TYPES) or "base64" not in kind:
        return ""
    encoded = url[comma + 1 : comma + 1 + _MAX_TEXT_BYTES * 4 // 3]
    try:
        content = base64.b64decode(encoded[: len(encoded) // 4 * 4], validate=False)
    except (binascii.Error, ValueError):
        return ""
    return content.decode("utf-8", "replace")


def base64_head(text: str) -> bytes:
    """The bytes of as much of ``text`` as is whole base64, at most 64 KiB."""
    text = text[: _HEAD_BYTES * 4 // 3]
    try:
        return base64.b64decode(text[: len(text) // 4 * 4], validate=False)
    except (binascii.Error, ValueError):
        return b""


def base64_bytes(text: str) -> int:
    """How many bytes the base64 ``text``, or data URL, stands for."""
    comma = text.find(",", 0, 512) if text[:5].lower() == "data:" else -1
    return (len(text) - comma - 1) * 3 // 4


def image_size(head: bytes) -> Size | None:
    """Width and height in pixels of a PNG, GIF, JPEG or WebP; None if they can't be told."""
    size = None
    if head[:8] == b"\x89PNG\r\n\x1a\n" and len(head) >= 24:
        size = struct.unpack(">II", head[16:24])
    elif head[:6] in (b"GIF87a", b"GIF89a") and len(head) >= 10:
        size = struct.unpack("<HH", head[6:10])
    elif head[:2] == b"\xff\xd8":
        size = _jpeg_size(head)
    elif head[:4] == b"RIFF" and head[8:12] == b"WEBP" and len(head) >= 30:
        size = _webp_size(head)
    return size if size and all(size) else None


def _jpeg_size(head: bytes) -> Size | None:
    at = 2
    while at + 9 <= len(head):
        if head[at] != 0xFF:
            return None
        marker = head[at + 1]
        if marker == 0xFF:
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", head[at + 5 : at + 9])
            return width, height
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:
            at += 2
        else:
            at += 2 + max(2, struct.unpack(">H", head[at + 2 : at + 4])[0])
    return None


def _webp_size(head: bytes) -> Size | None:
    kind = head[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", head[26:30])
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        bits = struct.unpack("<I", head[21:25])[0]
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X":
        width = int.from_bytes(head[24:27], "little") + 1
        return width, int.from_bytes(head[27:30], "little") + 1
    return None


def wav_seconds(head: bytes, total_bytes: int) -> float | None:
    """Seconds of a WAV from its byte rate; None if it isn't one."""
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE" or head[12:16] != b"fmt " or len(head) < 32:
        return None
    byte_rate = int(struct.unpack("<I", head[28:32])[0])
    return max(0, total_bytes - 44) / byte_rate if byte_rate else None


def image_tokens(rule: Images, size: Size, detail: str) -> int:
    """Tokens of an image under a family's rule. ``detail``: low, high or auto, as in requests."""
    width, height = size
    if rule.rule == "area":
        return math.ceil(min(width * height, 1568 * 750) * rule.factor)
    if rule.rule == "patches":
        patches = _patches(width, height, rule.cap)
        return rule.image + math.ceil(round(patches * rule.factor, 6))
    if detail == "low":
        return rule.base
    scale = min(1.0, 2048 / max(width, height))
    scale *= min(1.0, 768 / (min(width, height) * scale))
    across, down = round(width * scale, 6), round(height * scale, 6)
    return rule.base + rule.tile * math.ceil(across / 512) * math.ceil(down / 512)


def _patches(width: int, height: int, cap: int) -> int:
    across, down = math.ceil(width / 32), math.ceil(height / 32)
    if across * down <= cap:
        return across * down
    # Shrunk so that the patches fit, then once more so that one side is whole patches.
    shrink = math.sqrt(cap * 32 * 32 / (width * height))
    wide, high = width * shrink / 32, height * shrink / 32
    shrink *= min(math.floor(wide) / wide, math.floor(high) / high) if min(wide, high) >= 1 else 1
    return min(cap, math.ceil(width * shrink / 32) * math.ceil(height * shrink / 32))
