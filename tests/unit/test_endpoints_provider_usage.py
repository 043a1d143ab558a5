"""The provider's word, in each of its spellings; details are kept apart."""

from __future__ import annotations

import pytest

from sentinel_extproc.endpoints.provider_usage import (
    ReadUsage,
    read_image_usage,
    read_sound_usage,
    read_split_usage,
    read_usage,
)
from sentinel_extproc.usage.record import TokenUsage

CHAT = {
    "prompt_tokens": 100,
    "completion_tokens": 50,
    "total_tokens": 150,
    "prompt_tokens_details": {"cached_tokens": 64, "audio_tokens": 7, "image_tokens": 5},
    "completion_tokens_details": {
        "reasoning_tokens": 20,
        "audio_tokens": 3,
        "accepted_prediction_tokens": 11,
        "rejected_prediction_tokens": 2,
    },
}
RESPONSES = {
    "input_tokens": 100,
    "input_tokens_details": {"cached_tokens": 64},
    "output_tokens": 50,
    "output_tokens_details": {"reasoning_tokens": 20},
    "total_tokens": 150,
}
REALTIME = {
    "total_tokens": 150,
    "input_tokens": 100,
    "output_tokens": 50,
    "input_token_details": {
        "cached_tokens": 64,
        "text_tokens": 60,
        "image_tokens": 10,
        "audio_tokens": 30,
        "cached_tokens_details": {"text_tokens": 60, "audio_tokens": 4},
    },
    "output_token_details": {"text_tokens": 10, "audio_tokens": 40},
}
IMAGES = {
    "input_tokens": 100,
    "input_tokens_details": {"text_tokens": 10, "image_tokens": 90},
    "output_tokens": 4160,
    "total_tokens": 4260,
}
TRANSCRIPTION = {
    "type": "tokens",
    "input_tokens": 100,
    "input_token_details": {"text_tokens": 0, "audio_tokens": 100},
    "output_tokens": 50,
    "total_tokens": 150,
}
ANTHROPIC = {
    "input_tokens": 10,
    "cache_creation_input_tokens": 30,
    "cache_read_input_tokens": 60,
    "cache_creation": {"ephemeral_5m_input_tokens": 30, "ephemeral_1h_input_tokens": 0},
    "output_tokens": 50,
    "service_tier": "standard",
}


@pytest.mark.parametrize(
    ("read", "usage", "expected"),
    [
        (
            read_usage,
            CHAT,
            TokenUsage(
                100,
                50,
                cached_input_tokens=64,
                reasoning_tokens=20,
                audio_input_tokens=7,
                audio_output_tokens=3,
                image_input_tokens=5,
                accepted_prediction_tokens=11,
                rejected_prediction_tokens=2,
            ),
        ),
        (read_usage, RESPONSES, TokenUsage(100, 50, cached_input_tokens=64, reasoning_tokens=20)),
        (
            read_usage,
            REALTIME,
            TokenUsage(
                100,
                50,
                cached_input_tokens=64,
                audio_input_tokens=30,
                audio_output_tokens=40,
                image_input_tokens=10,
            ),
        ),
        (
            read_image_usage,
            IMAGES,
            TokenUsage(100, 4160, image_input_tokens=90, image_output_tokens=4160),
        ),
        (
            read_image_usage,
            IMAGES | {"output_tokens_details": {"text_tokens": 60, "image_tokens": 4100}},
            TokenUsage(100, 4160, image_input_tokens=90, image_output_tokens=4100),
        ),
        (read_usage, TRANSCRIPTION, TokenUsage(100, 50, audio_input_tokens=100)),
        (
            read_sound_usage,
            {"input_tokens": 9, "output_tokens": 70, "total_tokens": 79},
            TokenUsage(9, 70, audio_output_tokens=70),
        ),
        (read_usage, {"prompt_tokens": 8, "total_tokens": 8}, TokenUsage(8)),
        (read_split_usage, ANTHROPIC, TokenUsage(100, 50, cached_input_tokens=60)),
    ],
    ids=[
        "chat",
        "responses",
        "realtime",
        "images",
        "images with details",
        "transcription",
        "speech",
        "embeddings",
        "messages",
    ],
)
def test_what_an_api_reports(
    read: ReadUsage, usage: dict[str, object], expected: TokenUsage
) -> None:
    assert read(usage) == expected


def test_seconds_are_no_tokens() -> None:
    assert read_usage({"type": "duration", "seconds": 9}) is None


@pytest.mark.parametrize(
    "hit", [{"prompt_cache_hit_tokens": 64, "prompt_cache_miss_tokens": 36}, {"cached_tokens": 64}]
)
def test_what_was_cached_in_other_spellings(hit: dict[str, int]) -> None:
    usage = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}
    assert read_usage(usage | hit) == TokenUsage(100, 50, cached_input_tokens=64)


def test_thoughts_that_only_the_total_has_are_output() -> None:
    details = {"completion_tokens_details": {"reasoning_tokens": 300}}
    usage = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 450} | details
    assert read_usage(usage) == TokenUsage(100, 350, reasoning_tokens=300)


@pytest.mark.parametrize("total", [-1, 0, 149, True, "900", 2**53, None])
def test_a_total_that_makes_no_sense_changes_nothing(total: object) -> None:
    usage = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": total}
    assert read_usage(usage) == TokenUsage(100, 50)
