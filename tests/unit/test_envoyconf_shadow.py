"""What is rendered for a sidecar that only observes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from sentinel_extproc.cli import main


def rendered(*arguments: str) -> tuple[str, Any]:
    result = CliRunner().invoke(main, ["render", "--target", *arguments])
    assert result.exit_code == 0, result.output
    return result.output, list(yaml.safe_load_all(result.output))


@pytest.mark.parametrize("mode", ["shadow", "enforce"])
def test_the_filter_observes_and_lets_traffic_flow_without_the_sidecar(mode: str) -> None:
    text, (made,) = rendered("envoy", "--mode", mode)
    chain = made["static_resources"]["listeners"][0]["filter_chains"][0]
    config = chain["filters"][0]["typed_config"]["http_filters"][0]["typed_config"]
    shadow = mode == "shadow"
    assert config.get("observability_mode", False) is shadow
    assert config.get("failure_mode_allow", False) is shadow
    assert config.get("allow_mode_override", False) is not shadow
    assert ("nothing passes" in text) is not shadow


def test_istio_gets_the_same_filter() -> None:
    text, _ = rendered("istio", "--mode", "shadow")
    assert "observability_mode: true" in text
    assert "failure_mode_allow: true" in text


def test_envoy_gateway_has_words_of_its_own_for_it() -> None:
    text, documents = rendered("envoy-gateway", "--mode", "shadow")
    (policy,) = [one for one in documents if one["kind"] == "EnvoyExtensionPolicy"]
    (processor,) = policy["spec"]["extProc"]
    assert (processor["shadowMode"], processor["failOpen"]) == (True, True)
    assert "allowModeOverride" not in processor["processingMode"]
    assert "nothing passes ungoverned" not in text


@pytest.mark.parametrize("target", ["istio", "envoy-gateway"])
def test_whom_it_only_observes_it_cuts_nothing(target: str) -> None:
    text, _ = rendered(target, "--mode", "shadow")
    bounds = re.compile("(request_timeout|request_headers_timeout|requestReceivedTimeout):")
    assert bounds.search(text) is None
    assert bounds.search(rendered(target, "--mode", "enforce")[0]) is not None


def test_the_setting_is_enough_and_native_metering_cant_observe(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("server: {mode: shadow}\n")
    text, _ = rendered("envoy", "--config", str(file))
    assert "observability_mode: true" in text
    file.write_text("server: {metering: native}\n")
    arguments = ["render", "--target", "envoy", "--config", str(file), "--mode", "shadow"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "server.metering" in result.output
