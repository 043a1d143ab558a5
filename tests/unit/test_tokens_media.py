"""What the first bytes of media tell, and what they cost."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping

import pytest

from sentinel_extproc.tokens import media
from sentinel_extproc.tokens.estimator import TokenEstimator
from sentinel_extproc.tokens.family import Images
from sentinel_extproc.tokens.model import Confidence, Estimate
from sentinel_extproc.tokens.models import ModelTable

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 640, 480)
GIF = b"GIF89a" + struct.pack("<HH", 30, 20)
JPEG = (
    b"\xff\xd8\xff\xe0\x00\x10JFIF\0\1\1\0\0\1\0\1\0\0\xff\xff\xc0\x00\x11\x08"
    + struct.pack(">HH", 566, 597)
    + b"\3" * 12
)
VP8 = b"RIFF\0\0\0\0WEBPVP8 \0\0\0\0\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 320, 200)
VP8L = b"RIFF\0\0\0\0WEBPVP8L\0\0\0\0\x2f" + struct.pack("<I", 99 | 49 << 14) + b"\0" * 8
VP8X = b"RIFF\0\0\0\0WEBPVP8X\0\0\0\0\0\0\0\0\xff\x03\x00\xff\x01\x00"


@pytest.mark.parametrize(
    ("head", "size"),
    [
        (PNG, (640, 480)),
        (GIF, (30, 20)),
        (JPEG, (597, 566)),
        (VP8, (320, 200)),
        (VP8L, (100, 50)),
        (VP8X, (1024, 512)),
        (b"", None),
        (b"plain text", None),
        (PNG[:20], None),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + b"\0" * 8, None),
        (b"\xff\xd8\xff\xe0", None),
        (b"\xff\xd8" + b"\xff\xe0\0\0" * 10_000, None),
        (b"\xff\xd8" + b"\xff" * 10_000, None),
    ],
)
def test_sizes(head: bytes, size: tuple[int, int] | None) -> None:
    assert media.image_size(head) == size


@pytest.mark.parametrize(
    ("family", "size", "detail", "tokens"),
    [
        ("gpt-4o", (1024, 1024), "high", 85 + 170 * 4),
        ("gpt-4o", (640, 480), "auto", 85 + 170 * 2),
        ("gpt-4o", (2048, 4096), "high", 85 + 170 * 6),
        ("gpt-4o", (4096, 8192), "low", 85),
        ("gpt-4o-mini", (640, 480), "auto", 2833 + 5667 * 2),
        ("gpt-5", (640, 480), "auto", 70 + 140 * 2),
        ("gpt-4.1-nano", (540, 360), "auto", 503),
        ("gpt-5-mini", (640, 480), "auto", 361),
        ("gpt-5-nano", (16, 16), "auto", 3),
        ("o4-mini", (640, 480), "auto", 517),
        ("gpt-5.4", (60, 30), "auto", 4),
        ("claude", (1000, 750), "auto", 998),
    ],
)
def test_image_costs(family: str, size: tuple[int, int], detail: str, tokens: int) -> None:
    rule = ModelTable().families[family].images
    assert rule is not None
    assert media.image_tokens(rule, size, detail) == tokens


@pytest.mark.parametrize(
    "size", [(1, 1), (100_000, 100_000), (1, 100_000), (3000, 40), (1800, 2400)]
)
def test_patches_never_exceed_their_cap(size: tuple[int, int]) -> None:
    tokens = media.image_tokens(Images("patches", factor=1.0, cap=1536), size, "auto")
    assert 1 <= tokens <= 1536


def estimate(part: Mapping[str, object], model: str = "gpt-4o") -> Estimate:
    body = {"model": model, "messages": [{"role": "user", "content": [part]}]}
    return TokenEstimator().estimate("chat", body)


def data_url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def test_an_embedded_image_costs_its_size() -> None:
    url = data_url("image/png", PNG + b"\0" * 100_000)
    for part in (
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "input_image", "image_url": url},
    ):
        counted = estimate(part)
        assert counted == Estimate(7 + 85 + 340, 0, Confidence.CLOSE)


def test_an_image_elsewhere_is_never_free() -> None:
    url = "https://example.com/cat.png"
    counted = estimate({"type": "image_url", "image_url": {"url": url}})
    assert counted == Estimate(7 + 85 + 680, 0, Confidence.ROUGH)


def test_wav_costs_its_length_and_other_audio_its_bytes() -> None:
    wav = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0" + struct.pack("<II", 8000, 16000)
    encoded = base64.b64encode(wav.ljust(44 + 32_000, b"\0")).decode()
    part = {"type": "input_audio", "input_audio": {"data": encoded, "format": "wav"}}
    assert estimate(part, "gpt-4o-audio-preview") == Estimate(7 + 4 + 20, 0, Confidence.CLOSE)
    encoded = base64.b64encode(b"ID3" + b"\0" * 59_997).decode()
    part = {"type": "input_audio", "input_audio": {"data": encoded, "format": "mp3"}}
    assert estimate(part, "gpt-4o-audio-preview") == Estimate(7 + 4 + 100, 0, Confidence.ROUGH)


def test_files_cost_by_size_text_files_by_their_text() -> None:
    pdf = {"type": "file", "file": {"file_data": data_url("application/pdf", b"%PDF" * 10_000)}}
    assert estimate(pdf).input_tokens == 7 + 1000
    csv = {"type": "input_file", "file_data": data_url("text/csv", b"How warm is Oslo?")}
    assert estimate(csv).input_tokens == 7 + 5
    assert estimate({"type": "file", "file": {"file_id": "file-1"}}).input_tokens == 7 + 1000


@pytest.mark.parametrize(
    "url",
    [
        "",
        "data:",
        "data:image/png",
        "data:image/png;base64,",
        "data:image/png;base64,!!",
        "data:,x",
    ],
)
def test_broken_data_urls_are_counted_as_unseen(url: str) -> None:
    counted = estimate({"type": "image_url", "image_url": {"url": url}})
    assert counted == Estimate(7 + 85 + 680, 0, Confidence.ROUGH)
