"""The table of providers in the configuration."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sentinel_extproc.config.load import ConfigError, load
from sentinel_extproc.envoyconf.from_settings import Choices, attachment_of, provider_ways
from sentinel_extproc.envoyconf.render import to_dict
from sentinel_extproc.envoyconf.static import gateway_bootstrap
from sentinel_extproc.exchange.events import RequestHeaders
from sentinel_extproc.exchange.providers import ProviderTable
from sentinel_extproc.provider_parts import provider_parts

TABLE = """
zion: {url: "http://zion", api_key: z}
providers:
  - {name: azure, kind: azure, url: "https://us.openai.azure.com", path_prefix: /azure/,
     api_key_file: KEYS}
  - {name: claude, kind: anthropic, url: "https://api.anthropic.com", hosts: [claude.example],
     api_key: sk-claude}
  - {name: local, kind: compatible, url: "http://vllm:8000/api", path_prefix: /local/}
"""


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("SENTINEL_", "ZION_", "OPENAI_", "REDIS_")) or "CACHE_TTL" in name:
            monkeypatch.delenv(name)


def written(folder: Path, text: str = TABLE) -> Path:
    (folder / "keys").write_text("sk-azure\n")
    file = folder / "s.yaml"
    file.write_text(text.replace("KEYS", str(folder / "keys")))
    return file


def faults(file: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load(file)
    return "\n".join(caught.value.faults)


def test_a_table_needs_no_simple_form(tmp_path: Path) -> None:
    settings = load(written(tmp_path))
    choose, files = provider_parts(settings)
    assert len(files) == 1
    chosen = choose(
        RequestHeaders(
            [(":method", b"POST"), (":path", b"/azure/openai/v1/responses")], end_of_stream=False
        )
    )
    assert chosen.upstream.credentials == (("api-key", b"sk-azure"),)
    assert "sk-claude" not in str(settings.public())


def test_the_simple_form_takes_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-simple")
    settings = load(written(tmp_path))
    choose, _ = provider_parts(settings)
    assert isinstance(choose, ProviderTable)
    event = RequestHeaders([(":method", b"GET"), (":path", b"/v1/models")], end_of_stream=False)
    assert choose(event).name == "default"
    assert [way.name for way in provider_ways(settings)] == ["azure", "claude", "local", "default"]


def test_the_simple_forms_key_can_be_a_file(tmp_path: Path) -> None:
    text = "zion: {url: 'http://zion', api_key: z}\nprovider: {api_key_file: KEYS}\n"
    choose, files = provider_parts(load(written(tmp_path, text)))
    event = RequestHeaders([(":method", b"GET"), (":path", b"/v1/models")], end_of_stream=False)
    assert choose(event).upstream.credentials == (("authorization", b"Bearer sk-azure"),)
    assert len(files) == 1


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("api_key_file: KEYS", "api_key_file: /nowhere", "providers.0.api_key_file"),
        (",\n     api_key_file: KEYS", "", "providers.0.api_key: is needed"),
        ("api_key_file: KEYS", "api_key_file: KEYS, api_key: k", "providers.0.api_key: not both"),
        ("name: claude", "name: azure", "same name"),
        ("kind: anthropic", "kind: martian", "providers.1.kind"),
        ("path_prefix: /local/", "path_prefix: /azure/", "any host"),
        ("path_prefix: /local/", "path_prefix: local", "providers.2.path_prefix"),
        ("claude.example", "Claude Example", "providers.1.hosts.0"),
        ("sk-claude", '"two words"', "providers.1.api_key"),
        ("http://vllm", "ftp://vllm", "providers.2.url"),
    ],
)
def test_faults_are_named(tmp_path: Path, old: str, new: str, fault: str) -> None:
    assert old in TABLE
    assert fault in faults(written(tmp_path, TABLE.replace(old, new)))


def test_a_bad_key_file_is_a_fault_that_doesnt_show_it(tmp_path: Path) -> None:
    file = written(tmp_path)
    (tmp_path / "keys").write_text("not one-key")
    found = faults(file)
    assert "providers.0.api_key_file" in found
    assert "one-key" not in found


def test_envoy_gets_a_route_and_a_cluster_for_each(tmp_path: Path) -> None:
    attachment = attachment_of(load(written(tmp_path)), Choices())
    made = to_dict(gateway_bootstrap(attachment))
    resources = made["static_resources"]
    names = [cluster["name"] for cluster in resources["clusters"]]
    assert names == ["sentinel", "provider-azure", "provider-claude", "provider-local"]
    manager = resources["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    assert manager["http_filters"][0]["typed_config"]["request_attributes"] == ["xds.route_name"]
    hosts = manager["route_config"]["virtual_hosts"]
    routes = {
        route["name"]: (host["domains"], route["match"]["prefix"], route["route"])
        for host in hosts
        for route in host["routes"]
    }
    assert routes["claude"][:2] == (["claude.example"], "/")
    assert routes["azure"][:2] == (["*"], "/azure/")
    assert routes["azure"][2]["prefix_rewrite"] == "/"
    assert routes["azure"][2]["host_rewrite_literal"] == "us.openai.azure.com"
    assert routes["local"][2]["prefix_rewrite"] == "/api/"
    assert routes["local"][2]["host_rewrite_literal"] == "vllm:8000"


def test_the_example_in_the_docs_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "providers.md").read_text()
    example = page.partition("```yaml\n")[2].partition("```")[0]
    for name in ("azure-key", "claude-key"):
        (tmp_path / name).write_text("sk-1")
    text = "zion: {url: 'http://zion', api_key: z}\n" + example.replace(
        "/run/secrets", str(tmp_path)
    )
    settings = load(written(tmp_path, text))
    assert [one.name for one in settings.providers] == ["azure", "claude", "local"]
