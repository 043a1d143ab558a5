"""Which family a model's name resolves to."""

from __future__ import annotations

import pytest

from sentinel_extproc.tokens.models import MAX_MODEL_CHARS, ModelTable

TABLE = ModelTable()

NAMES = [
    ("gpt-3.5-turbo-0613", "gpt-3.5", "cl100k_base"),
    ("gpt-35-turbo", "gpt-3.5", "cl100k_base"),
    ("gpt-35-turbo-16k", "gpt-3.5", "cl100k_base"),
    ("gpt-3.5-turbo-instruct", "base", "cl100k_base"),
    ("gpt-3.5-turbo-instruct:20230824-v2", "base", "cl100k_base"),
    ("gpt-4", "gpt-4", "cl100k_base"),
    ("gpt-4-0613", "gpt-4", "cl100k_base"),
    ("gpt-4o-2024-08-06", "gpt-4o", "o200k_base"),
    ("gpt-4o-mini", "gpt-4o-mini", "o200k_base"),
    ("chatgpt-4o-latest", "gpt-4o", "o200k_base"),
    ("gpt-4.1-mini-2025-04-14", "gpt-4.1-mini", "o200k_base"),
    ("gpt-4.5-preview", "gpt-4o", "o200k_base"),
    ("gpt-5.4-2026-03-05", "gpt-5.4", "o200k_base"),
    ("gpt-5-mini", "gpt-5-mini", "o200k_base"),
    ("o1-preview", "o1", "o200k_base"),
    ("o3", "o-series", "o200k_base"),
    ("o4-mini-2025-04-16", "o4-mini", "o200k_base"),
    ("gpt-oss-20b", "gpt-oss", "o200k_base"),
    ("text-embedding-3-small", "base", "cl100k_base"),
    ("text-embedding-ada-002-v2", "base", "cl100k_base"),
    ("babbage-002", "base", "cl100k_base"),
    ("text-davinci-003", "older", "cl100k_base"),
    ("openai/gpt-4o", "gpt-4o", "o200k_base"),
    ("azure/openai/gpt-4", "gpt-4", "cl100k_base"),
    ("ft:gpt-4o-mini-2024-07-18:acme:support:9abc", "gpt-4o-mini", "o200k_base"),
    ("ft:gpt-3.5-turbo-0125:acme::8xyz", "gpt-4-turbo", "cl100k_base"),
    ("openai/ft:gpt-4.1-nano:acme", "gpt-4.1-nano", "o200k_base"),
    ("GPT-4O ", "gpt-4o", "o200k_base"),
    ("anthropic/claude-sonnet-4", "claude", "o200k_base"),
    ("us.anthropic.claude-3-5-sonnet-20241022-v2:0", "claude", "o200k_base"),
    ("meta.llama3-70b-instruct-v1:0", "llama", "o200k_base"),
    ("meta-llama/Llama-3.1-8B-Instruct", "llama", "o200k_base"),
    ("mixtral-8x7b", "mistral", "o200k_base"),
    ("deepseek/deepseek-r1:free", "qwen", "o200k_base"),
    ("accounts/fireworks/models/qwen3-coder", "qwen", "o200k_base"),
    ("xai/grok-4", "others", "o200k_base"),
    ("models/gemini-2.5-flash", "gemini", "o200k_base"),
]


@pytest.mark.parametrize(("name", "family", "encoding"), NAMES)
def test_names_resolve_by_their_longest_prefix(name: str, family: str, encoding: str) -> None:
    model = TABLE.resolve(name)
    assert (model.family, model.rules.encoding, model.known) == (family, encoding, True)


@pytest.mark.parametrize(
    "name", ["", "my-deployment", "gpt", "x" * 10_000, "ft:", "/", ":", "\ud800"]
)
def test_what_is_not_known_gets_the_default_and_says_so(name: str) -> None:
    model = TABLE.resolve(name)
    assert (model.family, model.known) == ("unknown", False)


@pytest.mark.parametrize("value", [None, 3, ["gpt-4o"], {"a": 1}])
def test_a_model_that_is_no_text_is_unknown(value: object) -> None:
    assert not TABLE.resolve(value).known


def test_foreign_models_carry_a_factor_and_are_never_exact() -> None:
    for name in ("claude-opus-4", "llama3", "mistral-large", "gemini-2.5-pro"):
        rules = TABLE.resolve(name).rules
        assert rules.factor > 1
        assert not rules.exact


def test_aliases_name_deployments() -> None:
    table = ModelTable(aliases={"Prod-Chat": "gpt-4o-mini", "old": "azure/gpt-35-turbo"})
    assert table.resolve("prod-chat").family == "gpt-4o-mini"
    assert table.resolve("PROD-CHAT").family == "gpt-4o-mini"
    assert table.resolve("old").family == "gpt-3.5"


def test_overrides_replace_single_constants() -> None:
    table = ModelTable(overrides={"gpt-5": {"tools": 100}, "llama": {"factor": 1.5}})
    assert table.resolve("gpt-5").rules.tools == 100
    assert table.resolve("gpt-5").rules.request == TABLE.resolve("gpt-5").rules.request
    assert table.resolve("llama3").rules.factor == 1.5


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"gpt-99": {"tools": 1}}, "gpt-99"),
        ({"gpt-4o": {"toolz": 1}}, "toolz"),
        ({"gpt-4o": {"tools": "nine"}}, "gpt-4o"),
        ({"gpt-4o": {"encoding": "p50k_base"}}, "p50k_base"),
    ],
)
def test_a_wrong_override_is_refused_by_name(
    overrides: dict[str, dict[str, object]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ModelTable(overrides=overrides)


def test_the_look_up_cache_is_bounded() -> None:
    table = ModelTable()
    for number in range(5000):
        table.resolve(f"{number}" * MAX_MODEL_CHARS)
    assert table._resolve.cache_info().currsize <= 1024
