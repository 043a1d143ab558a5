"""Completions and embeddings: nothing but their text."""

from __future__ import annotations

from typing import Any

from sentinel_extproc.tokens.model import Confidence, JsonObject
from sentinel_extproc.tokens.tally import Tally


def count_completions(tally: Tally, body: JsonObject) -> None:
    """Count ``prompt``: a text, texts, tokens or lists of tokens; ``suffix`` besides."""
    prompt = body.get("prompt")
    if prompt is None:
        # Without a prompt the model starts from the end-of-text token.
        tally.add(1)
    else:
        _count_texts(tally, prompt, least=0)
    suffix = tally.optional_text(body.get("suffix"))
    if suffix:
        tally.text(suffix)
        tally.lower(Confidence.CLOSE)


def count_embeddings(tally: Tally, body: JsonObject) -> None:
    """Count ``input``: a text, texts, tokens or lists of tokens; an empty text costs 1."""
    _count_texts(tally, body.get("input"), least=1)


def _count_texts(tally: Tally, value: Any, *, least: int) -> None:
    if isinstance(value, str):
        tally.text(value)
        if not value:
            tally.add(least)
    elif isinstance(value, list):
        if all(type(one) is int for one in value):
            tally.add(len(value))
            return
        for one in value:
            if isinstance(one, list) and all(type(token) is int for token in one):
                tally.add(len(one))
            elif isinstance(one, str):
                _count_texts(tally, one, least=least)
            else:
                tally.unknown(one)
    elif value is not None:
        tally.unknown(value)
