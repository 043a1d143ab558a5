"""The guides to attaching: every command that they give works as it is written."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner

from sentinel_extproc.cli import main
from sentinel_extproc.envoyconf.command import TARGET_NAMES
from sentinel_extproc.envoyconf.istio import IstioGateway

ROOT = Path(__file__).parents[2]
PAGES = {
    path.name: path.read_text("utf-8")
    for path in [
        ROOT / "README.md",
        ROOT / "docs" / "getting-started.md",
        *sorted((ROOT / "docs" / "attach").glob("*.md")),
    ]
}


def commands(word: str) -> list[tuple[str, list[str]]]:
    """Calls of one of our commands in shell blocks: page and arguments."""
    found = []
    for name, text in PAGES.items():
        for block in re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line.removesuffix("&"), comments=True)
                if words[:2] == ["sentinel-extproc", word]:
                    found.append((name, words[1:]))
    return found


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("SENTINEL_", "ZION_", "OPENAI_", "REDIS_")) or "CACHE_TTL" in name:
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sentinel.yaml").write_text("zion: {url: 'https://zion.example.com'}\n")


@pytest.mark.parametrize(("page", "words"), commands("render"))
def test_what_is_rendered_in_a_guide_renders(page: str, words: list[str]) -> None:
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    target = words[words.index("--target") + 1]
    text = Path(words[words.index("-o") + 1]).read_text("utf-8") if "-o" in words else result.stdout
    assert [document for document in yaml.safe_load_all(text) if document]
    told = re.search(r"docs/attach/([\w-]+\.md)", text)
    if told is not None:
        assert (ROOT / "docs" / "attach" / told[1]).exists(), target


def test_every_target_but_compose_has_its_command_in_a_guide() -> None:
    told = {words[words.index("--target") + 1] for _, words in commands("render")}
    assert told == set(TARGET_NAMES) - {"compose"}
    assert "docker compose" in PAGES["README.md"]


@pytest.mark.parametrize(("page", "words"), commands("doctor"))
def test_the_doctor_is_called_as_it_can_be(page: str, words: list[str]) -> None:
    command = main.get_command(click.Context(main), "doctor")
    assert command is not None
    context = command.make_context("doctor", words[1:], resilient_parsing=True)
    assert context.params["address"] or context.params["file"]


def test_istios_guide_tells_the_default_of_who_is_patched() -> None:
    ((key, value),) = IstioGateway().selector
    assert f"--selector {key}={value}" in PAGES["istio.md"]
