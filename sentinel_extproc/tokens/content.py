"""The content of a message: a string, or parts of text and media, in any provider's spelling."""

from __future__ import annotations

from typing import Any, Final

from sentinel_extproc.tokens import media
from sentinel_extproc.tokens.model import Confidence
from sentinel_extproc.tokens.tally import Tally, as_object

_TEXT_PARTS: Final = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "summary_text": "text",
    "refusal": "refusal",
}
_IMAGE_PARTS: Final = frozenset({"image_url", "input_image", "image"})
_AUDIO_PARTS: Final = frozenset({"input_audio", "audio"})
_FILE_PARTS: Final = frozenset({"file", "input_file", "document"})

UNSEEN_IMAGE: Final = (1024, 1024)
"""Taken for an image whose size can't be told, so that one behind a URL isn't free."""

_BYTES_PER_FILE_TOKEN: Final = 40
"""Rough: documents are mostly markup, fonts and compressed images."""

_MAX_FILE_TOKENS: Final = 100_000
_UNSEEN_FILE_TOKENS: Final = 1000
_BYTES_PER_AUDIO_SECOND: Final = 6000
"""48 kbit/s, the low end of what speech is sent with, so as not to undercount."""


def count_content(tally: Tally, content: Any) -> None:
    """Count a message's ``content``; null is nothing, what isn't known counts as its JSON.

    Neighbouring text parts are one text to the provider, so that a token can span both.
    """
    texts: list[str] = []
    for part in content if isinstance(content, list) else [content]:
        text = _text_of(part)
        if text is not None:
            texts.append(text)
            continue
        if texts:
            tally.text("".join(texts))
            texts.clear()
        if part is not None:
            count_part(tally, part)
    if texts:
        tally.text("".join(texts))


def _text_of(part: Any) -> str | None:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, dict) else None
    text = part.get(_TEXT_PARTS[kind]) if isinstance(kind, str) and kind in _TEXT_PARTS else None
    return text if isinstance(text, str) else None


def count_part(tally: Tally, part: Any) -> None:
    """Count one content part."""
    text = _text_of(part)
    if text is not None:
        tally.text(text)
        return
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or not isinstance(kind, str):
        tally.unknown(part)
    elif kind in _IMAGE_PARTS:
        _count_image(tally, part)
    elif kind in _AUDIO_PARTS:
        _count_audio(tally, part)
    elif kind in _FILE_PARTS:
        _count_file(tally, part)
    else:
        tally.unknown(part)


def _count_image(tally: Tally, part: dict[str, Any]) -> None:
    value = part.get("image_url")
    inner = value if isinstance(value, dict) else part
    url = inner.get("url") if isinstance(value, dict) else value
    detail = inner.get("detail")
    source = as_object(part.get("source"))
    if isinstance(url, str):
        head = media.data_url_head(url)
    else:
        data = source.get("data")
        head = media.base64_head(data) if isinstance(data, str) else b""
    size = media.image_size(head)
    tally.lower(Confidence.CLOSE if size else Confidence.ROUGH)
    rule = tally.rules.images
    if rule is None:
        tally.lower(Confidence.ROUGH)
        tally.add(1000)
        return
    tally.add(
        media.image_tokens(rule, size or UNSEEN_IMAGE, detail if isinstance(detail, str) else "")
    )


def _count_audio(tally: Tally, part: dict[str, Any]) -> None:
    audio = as_object(part.get("input_audio")) or part
    data = audio.get("data")
    if not isinstance(data, str):
        # An earlier answer's audio by id: its transcript is what the model sees.
        tally.lower(Confidence.ROUGH)
        return
    size = media.base64_bytes(data)
    seconds = media.wav_seconds(media.base64_head(data), size)
    tally.lower(Confidence.CLOSE if seconds is not None else Confidence.ROUGH)
    if seconds is None:
        seconds = size / _BYTES_PER_AUDIO_SECOND
    tally.add(tally.rules.audio + round(seconds * tally.rules.audio_per_second))


def _count_file(tally: Tally, part: dict[str, Any]) -> None:
    tally.lower(Confidence.ROUGH)
    inner = as_object(part.get("file")) or as_object(part.get("source")) or part
    data = inner.get("file_data") or inner.get("data")
    if isinstance(data, str):
        text = media.data_url_text(data)
        if text:
            tally.text(text)
            return
        size = media.base64_bytes(data)
        tally.add(min(_MAX_FILE_TOKENS, size // _BYTES_PER_FILE_TOKEN))
    else:
        tally.add(_UNSEEN_FILE_TOKENS)
