"""Configuration: sources, precedence, every fault at once, no secret shown."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from sentinel_extproc.cli import main
from sentinel_extproc.config.load import ConfigError, load

NEEDED = {
    "OPENAI_API_KEY": "sk-secret-1",
    "ZION_API_URL": "http://zion:3000",
    "ZION_API_KEY": "zion-secret-2",
}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("SENTINEL_", "ZION_", "OPENAI_", "REDIS_")) or "CACHE_TTL" in name:
            monkeypatch.delenv(name)


def given(monkeypatch: pytest.MonkeyPatch, **names: str) -> None:
    for name, value in (NEEDED | names).items():
        monkeypatch.setenv(name, value)


def faults(file: Path | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(file)
    return caught.value.faults


@pytest.mark.parametrize(
    "url",
    [
        "redis://a:1/2",
        "unix:///run/redis.sock?db=1",
        "rediss://user:p%2Fw@a",
        "redis+sentinel://a:1,b:2/main/0",
        "redis+cluster://user:pw@a:1,b",
    ],
)
def test_every_form_of_redis(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    given(monkeypatch, REDIS_URL=url)
    assert load().redis.url == url


def test_the_predecessors_names_work(monkeypatch: pytest.MonkeyPatch) -> None:
    given(
        monkeypatch,
        REDIS_URL="redis://r:1/2",
        OPENAI_API_URL="https://llm.example/",
        CACHE_TTL_SECONDS="7",
        JWT_CACHE_TTL_SECONDS="9",
    )
    settings = load()
    assert settings.provider.api_key is not None
    assert settings.provider.api_key.get_secret_value() == "sk-secret-1"
    assert settings.provider.url == "https://llm.example"
    assert settings.zion.url == "http://zion:3000"
    assert settings.zion.api_key.get_secret_value() == "zion-secret-2"
    assert settings.redis.url == "redis://r:1/2"
    assert (settings.identity.fresh_seconds, settings.identity.jwt_fresh_seconds) == (7, 9)


@pytest.mark.parametrize("level", ["warning", "WARNING", "Warning"])
def test_the_level_of_logs_in_any_case(monkeypatch: pytest.MonkeyPatch, level: str) -> None:
    given(monkeypatch, SENTINEL_LOGS__LEVEL=level)
    assert load().logs.level == "warning"


def test_environment_over_predecessor_over_file_over_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given(monkeypatch, CACHE_TTL_SECONDS="7", SENTINEL_LIMITS__REQUESTS="3")
    file = tmp_path / "s.yaml"
    file.write_text(
        "identity: {fresh_seconds: 5, jwt_fresh_seconds: 6}\nlimits: {requests: 1}\n"
        "redis: {url: 'redis://file'}\n"
    )
    settings = load(file)
    assert settings.identity.fresh_seconds == 7
    assert settings.identity.jwt_fresh_seconds == 6
    assert settings.limits.requests == 3
    assert settings.limits.period_seconds == 60
    monkeypatch.setenv("SENTINEL_IDENTITY__FRESH_SECONDS", "8")
    monkeypatch.setenv("SENTINEL_CONFIG", str(file))
    assert load().identity.fresh_seconds == 8
    assert load().redis.url == "redis://file"


def test_a_mapping_can_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, SENTINEL_TOKENS__ALIASES='{"my-deployment": "gpt-4o"}')
    assert load().tokens.aliases == {"my-deployment": "gpt-4o"}


def test_what_is_missing_is_named_setting_by_setting() -> None:
    text = "\n".join(faults())
    for path in ("provider.api_key", "zion.url", "zion.api_key"):
        assert path in text
    assert "ZION_API_URL" in text


@pytest.mark.parametrize(
    ("name", "value", "path"),
    [
        ("OPENAI_API_KEY", "two words", "provider.api_key"),
        ("OPENAI_API_KEY", "line\nbreak", "provider.api_key"),
        ("OPENAI_API_KEY", "", "provider.api_key"),
        ("OPENAI_API_URL", "ftp://x", "provider.url"),
        ("OPENAI_API_URL", "https://user:pw@x", "provider.url"),
        ("ZION_API_URL", "zion:3000", "zion.url"),
        ("ZION_API_URL", "http://zion:99999", "zion.url"),
        ("ZION_API_URL", "http://", "zion.url"),
        ("REDIS_URL", "http://r", "redis.url"),
        ("REDIS_URL", "redis://", "redis.url"),
        ("REDIS_URL", "redis://user:hid/den@h", "redis.url"),
        ("REDIS_URL", "redis://h:6379/0?password=hidden", "redis.url"),
        ("ZION_API_URL", "http://user:hid/den@zion", "zion.url"),
        ("CACHE_TTL_SECONDS", "0", "identity.fresh_seconds"),
        ("CACHE_TTL_SECONDS", "soon", "identity.fresh_seconds"),
        ("JWT_CACHE_TTL_SECONDS", "86400", "identity.jwt_fresh_seconds"),
        ("SENTINEL_SERVER__LISTEN", "0.0.0.0:99999", "server.listen"),
        ("SENTINEL_SERVER__LISTEN", "unix:relative", "server.listen"),
        ("SENTINEL_SERVER__LISTEN", "unix:/" + "a" * 108, "server.listen"),
        ("SENTINEL_SERVER__MAX_STREAMS", "0", "server.max_streams"),
        ("SENTINEL_LIMITS__REQUESTS", "-1", "limits.requests"),
        ("SENTINEL_LIMITS__REQUESTS", "1e30", "limits.requests"),
        ("SENTINEL_LIMITS__PERIOD_SECONDS", "nan", "limits.period_seconds"),
        ("SENTINEL_LIMITS__LEARNED_OUTPUT_LEAST", "20000", "limits.learned_output_least"),
        ("SENTINEL_LIMITS__LEARNED_OUTPUT_PERCENTILE", "1", "limits.learned_output_percentile"),
        ("SENTINEL_ENDPOINTS__PREFIX", "v1", "endpoints.prefix"),
        ("SENTINEL_USAGE__BATCH_SIZE", "1001", "usage.batch_size"),
        ("SENTINEL_ZION__DIALECT", "other", "zion.dialect"),
        ("SENTINEL_ZION__DEADLINE_SECONDS", "5", "zion.deadline_seconds"),
        ("SENTINEL_ZION__CA_FILE", "/nonexistent/ca.pem", "zion.ca_file"),
        ("SENTINEL_ZION__CLIENT_CERT_FILE", "/nonexistent/c.pem", "zion.client_cert_file"),
        ("SENTINEL_SERVER__NO_SUCH", "1", "server.no_such"),
        ("SENTINEL_NO_SUCH__THING", "1", "SENTINEL_NO_SUCH__THING"),
        ("SENTINEL_TOKENS__ALIASES", "{", "tokens.aliases"),
        ("SENTINEL_TOKENS__ALIASES", '{"dep": "gtp-4"}', "tokens.aliases.dep"),
        ("SENTINEL_TOKENS__OVERRIDES", '{"gpt-4o": 3}', "tokens.overrides.gpt-4o"),
        ("SENTINEL_TOKENS__OVERRIDES", '{"gpt-4o": {"x": 3}}', "tokens.overrides.gpt-4o.x"),
        ("SENTINEL_TOKENS__ALIASES", "a=b", "SENTINEL_TOKENS__ALIASES"),
        ("SENTINEL_SERVER", "a=b", "server"),
        ("SENTINEL_SERVER__SOCKET_MODE", "0888", "octal"),
        ("SENTINEL_SERVER__WORKERS", "0", "server.workers: must be a number from 1 to 64, or auto"),
        ("SENTINEL_SERVER__WORKERS", "65", "server.workers"),
        ("SENTINEL_SERVER__WORKERS", "many", "server.workers"),
        ("SENTINEL_SERVER__SOCKET_MODE", "1777", "server.socket_mode"),
    ],
)
def test_a_faulty_setting_is_named_and_its_value_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, path: str
) -> None:
    given(monkeypatch, **{name: value})
    found = faults()
    assert any(path in fault for fault in found)
    for secret in ("sk-secret-1", "zion-secret-2", "two words", "user:pw", "hid"):
        assert secret not in "\n".join(found)


@pytest.mark.parametrize(
    ("text", "mode"), [("0660", 0o660), ("0o600", 0o600), ("777", 0o777), ('"0660"', 0o660)]
)
def test_permissions_are_octal_as_everywhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, mode: int
) -> None:
    given(monkeypatch)
    if text != "777":  # a bare number in YAML is a number, not text
        file = tmp_path / "s.yaml"
        file.write_text(f"server: {{socket_mode: {text}}}")
        assert load(file).server.socket_mode == mode
    monkeypatch.setenv("SENTINEL_SERVER__SOCKET_MODE", text.strip('"'))
    assert load().server.socket_mode == mode


def test_every_fault_is_listed_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given(
        monkeypatch,
        ZION_API_URL="x",
        SENTINEL_ODD="1",
        CACHE_TTL_SECONDS="-1",
        SENTINEL_TOKENS__ALIASES="a=b",
    )
    file = tmp_path / "s.yaml"
    file.write_text("limits: {requests: no, unknown: 1}\nodd: {}\n")
    assert len(faults(file)) == 7


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [", "not valid YAML"),
        ("- a", "mapping"),
        ("limits: {requests: 1, requests: 2}", "twice"),
        ("1: 2", "not text"),
        ("a: !!python/object:os.system x", "not valid YAML"),
        ("[" * 5000, "nested too deep"),
    ],
)
def test_a_file_that_is_no_configuration(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, says: str
) -> None:
    given(monkeypatch)
    file = tmp_path / "s.yaml"
    file.write_text(text)
    assert any(says in fault for fault in faults(file))


def test_a_file_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given(monkeypatch)
    assert "No such file" in faults(tmp_path / "missing.yaml")[0]
    (tmp_path / "latin").write_bytes(b"\xff")
    assert "UTF-8" in faults(tmp_path / "latin")[0]
    with (tmp_path / "big").open("wb") as big:
        big.truncate(2 << 20)
    assert "larger" in faults(tmp_path / "big")[0]


def test_check_config_prints_settings_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, REDIS_URL="redis://user:redis-secret-3@r:1/0")
    for arguments in (["check-config"], ["check-config", "--json"]):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0
        assert "redis://user:**********@r:1/0" in result.output
        for secret in ("sk-secret-1", "zion-secret-2", "redis-secret-3"):
            assert secret not in result.output


@pytest.mark.parametrize("command", ["check-config", "serve"])
def test_a_faulty_configuration_ends_with_code_2(
    monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    given(monkeypatch, ZION_API_URL="x", CACHE_TTL_SECONDS="x")
    result = CliRunner().invoke(main, [command])
    assert result.exit_code == 2
    assert "2 faults:" in result.output
    assert "zion.url" in result.output
    assert "identity.fresh_seconds" in result.output


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "rules: [{match: {endpoint: chat.completion}}]",
            "rules.0.match.endpoint: 'chat.completion'",
        ),
        ("rules: [{match: {modle: x}}]", "rules.0.match.modle: there is no such field"),
        ("rules: [{limits: [{name: a}]}]", "rules.0.limits.0.unit: is needed"),
        ("rules: {}", "rules: must be a list"),
        ("", "policy: must be a mapping"),
    ],
)
def test_faults_of_a_policy_file_are_in_plain_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, says: str
) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(text)
    given(monkeypatch, SENTINEL_LIMITS__POLICY_FILE=str(file))
    assert any(fault.startswith(f"{file}: {says}") for fault in faults())


@pytest.mark.parametrize(("value", "workers"), [("1", 1), ("7", 7), ("64", 64), ("auto", "auto")])
def test_workers_are_a_number_or_auto(
    monkeypatch: pytest.MonkeyPatch, value: str, workers: int | str
) -> None:
    given(monkeypatch, SENTINEL_SERVER__WORKERS=value)
    assert load().server.workers == workers


def test_a_policy_is_checked_beside_other_faults(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("rules: {}")
    given(monkeypatch, ZION_API_URL="x", SENTINEL_LIMITS__POLICY_FILE=str(file))
    found = faults()
    assert len(found) == 2
    assert found[0].startswith("zion.url")
    assert found[1] == f"{file}: rules: must be a list"
    monkeypatch.setenv("SENTINEL_LIMITS__REQUESTS", "-1")
    assert [fault.partition(":")[0] for fault in faults()] == ["zion.url", "limits.requests"]


@pytest.mark.parametrize("text", [None, "a: ["])
def test_what_a_file_that_cannot_be_read_may_have_is_not_called_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None
) -> None:
    file = tmp_path / "config.yaml"
    if text is not None:
        file.write_text(text)
    monkeypatch.setenv("CACHE_TTL_SECONDS", "x")
    with pytest.raises(ConfigError) as caught:
        load(file)
    whole, *more = caught.value.faults
    assert whole.startswith(str(file))
    assert [fault.partition(":")[0] for fault in more] == ["identity.fresh_seconds"]


def test_modes_of_sockets_are_shown_as_they_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, SENTINEL_ADMIN__SOCKET_MODE="0600")
    shown = CliRunner().invoke(main, ["check-config", "--json"])
    assert json.loads(shown.output)["admin"]["socket_mode"] == "0600"
    as_yaml = CliRunner().invoke(main, ["check-config"])
    assert "socket_mode: '0660'" in as_yaml.output


def test_a_policy_may_name_endpoints_by_globs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("rules: [{match: {endpoint: ['images.*', responses, '*']}}]")
    given(monkeypatch, SENTINEL_LIMITS__POLICY_FILE=str(file))
    load()


def test_a_file_that_settings_name_and_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given(monkeypatch, SENTINEL_LIMITS__POLICY_FILE=str(tmp_path / "no.yaml"))
    assert faults() == [
        f"{tmp_path / 'no.yaml'}: no.yaml: can't be read: No such file or directory"
    ]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("azure", "providers: must be a list (in the environment a JSON array)"),
        ('[{"name": "x"}]', "providers.0.url: is needed"),
    ],
)
def test_a_list_in_the_environment_that_is_none(
    monkeypatch: pytest.MonkeyPatch, value: str, says: str
) -> None:
    given(monkeypatch, SENTINEL_PROVIDERS=value)
    (fault,) = faults()
    assert fault.removesuffix(" (from SENTINEL_PROVIDERS)") == says
