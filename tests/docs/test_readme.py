"""What the README and docs/attach/envoy.md promise a newcomer, held to the code."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from sentinel_extproc import errors
from sentinel_extproc.cli import main as cli
from sentinel_extproc.config.load import load
from sentinel_extproc.config.settings import Settings
from sentinel_extproc.demo import openai_standin, session, zion_standin
from sentinel_extproc.endpoints.json_body import MAX_VALUES
from sentinel_extproc.envoyconf.local_reply import GATEWAY_ERRORS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
ATTACH = (ROOT / "docs" / "attach" / "envoy.md").read_text("utf-8").partition("## Try it")[2]
PACKAGE = ROOT / "sentinel_extproc"
_ROW = re.compile(r"^\| (\d{3}) \| (.+?) \| (.+?) \|$", re.MULTILINE)


def statuses() -> dict[str, int]:
    """The default code of every error class, with its status."""
    classes = [vars(errors)[name] for name in dir(errors) if isinstance(vars(errors)[name], type)]
    return {c.default_code: c.status for c in classes if issubclass(c, errors.SentinelError)}


def test_every_error_code_is_one_that_we_send() -> None:
    sources = "".join(path.read_text("utf-8") for path in PACKAGE.rglob("*.py"))
    given = set(re.findall(r'\bcode="(\w+)"', sources)) | set(statuses())
    given |= set(re.findall(r'code="(\w+)" if ', sources))
    envoys = {error.code: error.status for error in GATEWAY_ERRORS}
    rows = [(int(s), re.findall(r"`(\w+)`", c), when) for s, c, when in _ROW.findall(README)]
    assert len(rows) > 10
    for status, codes, when in rows:
        for code in codes:
            assert code in given or code in envoys, code
            assert statuses().get(code, status) == status, code
            assert envoys.get(code, status) == status, code
            assert code not in envoys or "Envoy" in when
    told = {code for _, codes, _ in rows for code in codes}
    assert told >= set(envoys)
    assert told >= {"identity_unavailable", "usage_unavailable", "insufficient_quota"}
    assert f"more than {MAX_VALUES:,} values" in README


def test_the_settings_that_are_shown_exist_with_these_defaults() -> None:
    rows = re.findall(r"^\| (`\w+\.\w+`.*?) \|(.*?)\| (.*?) ?\| .*\|$", README, re.MULTILINE)
    assert len(rows) >= 9
    for names, _, default in rows:
        for section, name in re.findall(r"`(\w+)\.(\w+)`", names):
            group = Settings.model_fields[section].annotation
            assert group is not None
            field = group.model_fields[name]
            assert field.is_required() == (default == "needed"), name
            if found := re.fullmatch(r"`(.+)`", default):
                assert str(field.default) == found[1], name


def test_the_variables_of_the_demo_are_the_ones_it_reads() -> None:
    source = Path(session.__file__).read_text("utf-8")
    rows = re.findall(r"^\| (`[A-Z_]+`.*?) \| .*\|$", README, re.MULTILINE)
    told = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    read = set(re.findall(r'"((?:OPENAI|ZION|SENTINEL_DEMO)_\w+)"', source))
    assert told == read


def test_compose_is_called_as_its_own_file_says() -> None:
    calls = re.findall(r"docker compose [^#`\n]*--profile[^#`\n]*", README)
    assert calls
    head = (ROOT / "docker-compose.yml").read_text("utf-8")
    for call in calls:
        assert call.strip() in head


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", ATTACH, re.MULTILINE | re.DOTALL)


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands of the walk-through, its variables put in place."""
    commands = []
    for line in blocks("sh")[0].splitlines():
        words = shlex.split(line.removesuffix("&"))
        if words[0] == "export":
            for name, value in (word.split("=", 1) for word in words[1:]):
                if name != "PATH":
                    monkeypatch.setenv(name, value)
        else:
            commands.append(words)
    return commands


def test_what_is_walked_through_fits_together(by_hand: list[list[str]]) -> None:
    settings = load()
    (envoy,) = (words for words in by_hand if words[0] == "envoy")
    config = yaml.safe_load((ROOT / envoy[-1]).read_text("utf-8"))
    endpoints: dict[str, Any] = {
        cluster["name"]: cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
        for cluster in config["static_resources"]["clusters"]
    }
    addresses = {
        name: "{address}:{port_value}".format(**endpoint["address"]["socket_address"])
        for name, endpoint in endpoints.items()
    }
    assert addresses["sentinel"] == settings.server.listen
    ports = {}
    for module, standin in (
        (openai_standin.__name__, openai_standin.main),
        (zion_standin.__name__, zion_standin.main),
    ):
        (words,) = (words for words in by_hand if module in words)
        assert words[:2] == ["python", "-m"]
        options = standin.make_context(module, words[3:]).params
        ports[module] = f"{options['host']}:{options['port']}"
    assert addresses["provider"] == ports[openai_standin.__name__]
    assert settings.zion.url == f"http://{ports[zion_standin.__name__]}"
    assert settings.redis.url.startswith("redis://127.0.0.1:6379/")
    (serve,) = (words for words in by_hand if words[0] == "sentinel-extproc")
    assert serve[1] in cli.commands
    (listener,) = config["static_resources"]["listeners"]
    assert f"127.0.0.1:{listener['address']['socket_address']['port_value']}/v1/" in blocks("sh")[1]
    assert zion_standin.DEMO_USERS[0].token in blocks("sh")[1]


def test_snippets_are_parts_of_a_cluster() -> None:
    found = [yaml.safe_load(text)[0]["endpoint"]["address"] for text in blocks("yaml")]
    assert [list(address) for address in found] == [["pipe"], ["socket_address"]]


def test_the_bounds_of_bodies_are_those_of_the_configuration() -> None:
    config = (ROOT / "envoy" / "envoy.yaml").read_text("utf-8")
    assert f"request_body_buffer_limit: {16 * 2**20}" in config
    assert "16 MiB in envoy.yaml" in ATTACH
    assert Settings.model_fields["server"].annotation is not None
    assert Settings.model_fields["server"].annotation.model_fields["max_message_bytes"].default > (
        16 * 2**20
    )


def test_folders_that_contributors_are_sent_to_exist() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    paths = re.findall(
        r"`((?:tests|docs|scripts|bench|proto|config|endpoints|limits)/[\w/.]*)`", page
    )
    assert len(paths) > 5
    for path in paths:
        assert (ROOT / path).exists() or (PACKAGE / path).exists(), path
    named = set(re.findall(r"`(tests/\w+)`", page))
    there = {f"tests/{p.name}" for p in (ROOT / "tests").iterdir() if any(p.glob("test_*.py"))}
    assert named >= there
