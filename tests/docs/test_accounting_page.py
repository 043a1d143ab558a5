"""What docs/accounting.md says of models is so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from sentinel_extproc.tokens.models import ModelTable

PAGE = (Path(__file__).parents[2] / "docs" / "accounting.md").read_text("utf-8")


def test_the_example_of_aliases_and_overrides_works() -> None:
    (example,) = re.findall(r"```yaml\n(tokens:.*?)```", PAGE, re.DOTALL)
    table = ModelTable(**yaml.safe_load(example)["tokens"])
    assert table.resolve("prod-chat").family == "gpt-4o-mini"
    assert table.resolve("prod-local").rules.factor == 1.1
    assert table.resolve("gpt-5-mini").rules.tools == 93
    assert table.resolve("gpt-5").rules.hosted["web_search"] == 9000
    assert table.resolve("gpt-4.5-preview").rules.request == 5
    assert table.resolve("gpt-4.5").rules.request == 3


@pytest.mark.parametrize(
    ("models", "shown"),
    [
        (["claude-opus-4"], "Claude 1.3"),
        (["llama-4"], "Llama 1.2"),
        (["mistral-large", "codestral"], "Mistral 1.3"),
        (["gemini-2.5-pro"], "Gemini\n1.05"),
        (["qwen3", "deepseek-v3", "kimi-k2", "glm-4.6"], "Qwen, DeepSeek, Kimi and GLM 1.15"),
        (["grok-4", "command-r"], "Grok and others 1.2"),
        (["no-such-model"], "know, with 1.2"),
    ],
)
def test_factors_are_those_of_the_table(models: list[str], shown: str) -> None:
    assert shown in PAGE
    factor = float(shown.rsplit(maxsplit=1)[-1])
    for model in models:
        rules = ModelTable().resolve(model).rules
        assert (rules.factor, rules.exact) == (factor, False)


def test_figures_are_those_of_make_accuracy(accuracy: Any, rows: list[Any]) -> None:
    rows = [row for row in rows if not row.unseen]
    shown = re.findall(r"^\| ([a-z ,]+) \| (\d+) \| ([\d.]+) % \|[^|]*\| ([\d.]+) %", PAGE, re.M)
    assert len(shown) == 6
    for label, count, share, error in shown:
        kind, _, rest = label.partition(",")
        kinds = [row for row in rows if row.kind == kind and not (rest and row.flagged)]
        exact, mean = accuracy.met(kinds)
        assert (count, share, error) == (str(len(kinds)), f"{exact:.1%}"[:-1], f"{mean:.2%}"[:-1])
