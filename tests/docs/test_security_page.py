"""docs/security.md: each promise has tests, and they, settings and metrics exist."""

from __future__ import annotations

import re

import pytest

from sentinel_extproc.config.settings import Settings
from tests.docs.claims import ROOT, proofs, texts

PAGE = (ROOT / "docs" / "security.md").read_text("utf-8")
PROMISES = PAGE.partition("## What is promised")[2].partition("\n## ")[0]
ROWS = re.findall(r"^\| ([A-Z].+?) \| (.+) \| (.+?) \|$", PROMISES, re.MULTILINE)[1:]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_a_promise_is_proved(row: tuple[str, str, str]) -> None:
    named = set(re.findall(r"`(\w+)`", row[2]))
    assert named, "no test proves it"
    assert not named - proofs()


def test_there_are_promises() -> None:
    assert len(ROWS) > 20
    assert len(ROWS) == len(re.findall(r"^\| [A-Z]", PROMISES, re.MULTILINE)) - 1


@pytest.mark.parametrize("name", ["security", "operations", "failures"])
def test_settings_and_metrics_that_are_named_exist(name: str) -> None:
    page = (ROOT / "docs" / f"{name}.md").read_text("utf-8")
    for section, setting in re.findall(r"`(\w+)\.(\w+)`", page):
        group = Settings.model_fields[section].annotation
        assert group is not None
        assert setting in group.model_fields, f"{section}.{setting}"
    for metric in re.findall(r"`(sentinel_\w+)`", page):
        assert metric in texts() or metric.removesuffix("_total") in texts(), metric
