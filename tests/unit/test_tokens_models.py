"""Which family a model's name resolves to."""

from __future__ import annotations

import pytest

from sentinel_extproc.tokens.models import MAX_MODEL_CHARS, ModelTable, ModelTableError

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
    ("text-embedding-3-large", "base", "cl100k_base"),
    ("davinci-002", "base", "cl100k_base"),
    ("gpt-5.1", "gpt-5", "o200k_base"),
    ("gpt-5-codex", "gpt-5", "o200k_base"),
    ("gpt-5.1-codex-mini", "gpt-5", "o200k_base"),
    ("gpt-5.6-sol", "gpt-5.4", "o200k_base"),
    ("o1-mini-2024-09-12", "o1", "o200k_base"),
    ("o3-mini", "o-series", "o200k_base"),
    ("codex-mini-latest", "o-series", "o200k_base"),
    ("openai:gpt-4o", "gpt-4o", "o200k_base"),
    ("openai:ft:gpt-4.1-mini:acme:x", "gpt-4.1-mini", "o200k_base"),
    ("openai.gpt-oss-120b-1:0", "gpt-oss", "o200k_base"),
    ("anthropic:claude-sonnet-4", "claude", "o200k_base"),
    ("global.anthropic.claude-sonnet-4-5-20250929-v1:0", "claude", "o200k_base"),
    ("vertex_ai/claude-3-7-sonnet@20250219", "claude", "o200k_base"),
    ("us.deepseek.r1-v1:0", "qwen", "o200k_base"),
    ("mistral.mistral-large-2407-v1:0", "mistral", "o200k_base"),
    ("mistral:7b", "mistral", "o200k_base"),
    ("qwen2.5-coder:32b", "qwen", "o200k_base"),
    ("llama3.1:8b-instruct-q4", "llama", "o200k_base"),
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
    "name",
    [
        "",
        "my-deployment",
        "gpt",
        "x" * 10_000,
        "ft:",
        "/",
        ":",
        "\ud800",
        ":" * 200,
        "a:b:c:d:gpt-4",
    ],
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
    assert table.resolve("azure/prod-chat").family == "gpt-4o-mini"
    assert table.resolve("old").family == "gpt-3.5"


def test_overrides_replace_single_constants() -> None:
    table = ModelTable(overrides={"gpt-5": {"tools": 100}, "llama": {"factor": 1.5}})
    assert table.resolve("gpt-5").rules.tools == 100
    assert table.resolve("gpt-5").rules.request == TABLE.resolve("gpt-5").rules.request
    assert table.resolve("llama3").rules.factor == 1.5


def test_families_take_over_what_is_overridden_unless_they_have_their_own() -> None:
    table = ModelTable(overrides={"gpt-4o": {"message": 5, "request": 9}})
    assert table.resolve("gpt-4.1").rules.message == 5
    assert table.resolve("o3").rules.message == 5
    assert table.resolve("o3").rules.request == TABLE.resolve("o3").rules.request
    assert table.resolve("gpt-5").rules == TABLE.resolve("gpt-5").rules


def test_one_model_can_be_overridden_and_the_rest_of_its_family_stays() -> None:
    table = ModelTable(overrides={"gpt-4.5": {"request": 7}, "GPT-5-Codex": {"tools": 50}})
    assert table.resolve("openai/gpt-4.5-preview").rules.request == 7
    assert table.resolve("gpt-4o").rules == TABLE.resolve("gpt-4o").rules
    codex = table.resolve("gpt-5-codex")
    assert (codex.family, codex.rules.tools, codex.known) == ("gpt-5-codex", 50, True)
    assert codex.rules.images == TABLE.resolve("gpt-5").rules.images
    assert table.resolve("gpt-5").rules == TABLE.resolve("gpt-5").rules


def test_a_model_of_ones_own_says_what_it_is_like() -> None:
    table = ModelTable(
        overrides={"house-model": {"like": "llama", "factor": 1.1}}, aliases={"dep": "house-model"}
    )
    for name in ("house-model", "house-model-v2", "dep"):
        model = table.resolve(name)
        assert (model.family, model.known) == ("house-model", True)
        assert (model.rules.factor, model.rules.exact) == (1.1, False)


def test_an_override_of_one_hosted_tool_keeps_the_others() -> None:
    hosted = ModelTable(overrides={"gpt-5": {"hosted": {"mcp": 7}}}).resolve("gpt-5").rules.hosted
    assert hosted == {**TABLE.resolve("gpt-5").rules.hosted, "mcp": 7}


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        ({"gtp-5": {"tools": 1}}, "overrides.gtp-5: no such family or model"),
        ({"house": {"like": "lama"}}, "overrides.house.like: no such family"),
        ({"house": {"like": 3}}, "overrides.house.like: no such family"),
        ({"gpt-5": {"like": "gpt-4o"}}, "overrides.gpt-5.like: the table says"),
        ({"openai/gpt-5-codex": {}}, "overrides.openai/gpt-5-codex: must be a model's bare name"),
        ({"ft:gpt-4o:acme": {}}, "must be a model's bare name: 'gpt-4o'"),
        ({" ": {}}, "must be a model's bare name"),
        ({"gpt-4o": {"toolz": 1}}, "overrides.gpt-4o.toolz: there is no such constant"),
        ({"gpt-4o": {"tools": "nine"}}, "overrides.gpt-4o.tools: Expected `int`"),
        ({"gpt-4o": {"encoding": "p50k_base"}}, "overrides.gpt-4o.encoding: Invalid enum value"),
        ({"gpt-4o": {"hosted": 3}}, "overrides.gpt-4o.hosted: Expected `object`"),
        ({"gpt-4o": {"images": {"rule": "tiles", "bas": 1}}}, "unknown field `bas`"),
        # Nothing may make prompts free, or numbers that aren't any.
        ({"gpt-4o": {"factor": 0}}, "overrides.gpt-4o.factor: Expected `float` > 0"),
        ({"gpt-4o": {"factor": float("nan")}}, "overrides.gpt-4o.factor"),
        ({"gpt-4o": {"message": -(10**9)}}, "overrides.gpt-4o.message: Expected `int` >="),
    ],
)
def test_a_wrong_override_is_refused_by_name(
    overrides: dict[str, dict[str, object]], fault: str
) -> None:
    with pytest.raises(ModelTableError) as caught:
        ModelTable(overrides=overrides)
    assert len(caught.value.faults) == 1
    assert fault in caught.value.faults[0]


def test_every_fault_of_aliases_and_overrides_is_listed() -> None:
    with pytest.raises(ModelTableError) as caught:
        ModelTable(
            aliases={"prod": "gpt-4oo", "Dev": "gtp", "dev": "gpt-4o", "chain": "prod"},
            overrides={"gpt-5": {"tools": None, "request": 2.5, "x": 1}, "gtp": {"y": 1}},
        )
    # An alias names a model, never another alias; gpt-4oo begins as gpt-4o does.
    assert [fault.partition(": ")[0] for fault in caught.value.faults] == [
        "overrides.gpt-5.tools",
        "overrides.gpt-5.request",
        "overrides.gpt-5.x",
        "overrides.gtp.y",
        "overrides.gtp",
        "aliases.Dev",
        "aliases.chain",
        "aliases.dev",
    ]


def test_the_look_up_cache_is_bounded() -> None:
    table = ModelTable()
    for number in range(5000):
        table.resolve(f"{number}" * MAX_MODEL_CHARS)
    assert table._resolve.cache_info().currsize <= 1024
