"""docs/ledger.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from sentinel_extproc.tokens.models import ModelTable
from sentinel_extproc.usage import outbox, sql
from sentinel_extproc.usage.prices_file import parse_prices

PAGE = (Path(__file__).parents[2] / "docs" / "ledger.md").read_text()


def test_the_order_of_columns_that_auditors_hash_by() -> None:
    names = [name.strip() for name in sql.RECORD_COLUMNS.split(",")]
    blocks = re.findall(r"```\n(.*?)```", PAGE, re.DOTALL)
    assert names in [[name.strip() for name in block.split(",")] for block in blocks]


def test_the_price_list_can_be_used() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    prices = parse_prices(text, ModelTable().canonical)
    for model in ("gpt-4o-mini", "gpt-4o-2024-08-06", "gpt-4o-audio-preview", "tts-1-hd"):
        assert prices.price_of(model) is not None


def test_the_bounds() -> None:
    assert f"| {outbox.RETAIN_SHARE:.0%} |".replace("%", " %") in PAGE
    assert f"| {outbox.DEGRADED_SHARE:.0%} |".replace("%", " %") in PAGE
    assert f"{outbox.HEADROOM_BYTES >> 20} MiB of headroom" in PAGE
