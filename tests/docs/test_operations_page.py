"""docs/operations.md says what the commands are: held to click's own tree."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from sentinel_extproc.cli import main
from sentinel_extproc.reloading.changes import LIVE

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text("utf-8")
ROWS = {
    name: (has_json == "yes", codes)
    for name, has_json, codes in re.findall(
        r"^\| `sentinel-extproc ([a-z -]+)` \|[^|]+\| (yes|no) \| ([0-9, ]+) \|$",
        PAGE,
        re.MULTILINE,
    )
}
EXAMPLES = re.findall(r"^sentinel-extproc (.+)$", PAGE, re.MULTILINE)


def leaves(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from leaves(inner, (*path, name))
    else:
        yield " ".join(path), command


COMMANDS = dict(leaves(main, ()))


def options(command: click.Command) -> set[str]:
    return {option for parameter in command.params for option in parameter.opts}


def test_the_table_has_every_command_and_no_other() -> None:
    assert sorted(ROWS) == sorted(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_row_says_what_the_command_says(name: str) -> None:
    has_json, codes = ROWS[name]
    help_text = " ".join((COMMANDS[name].help or "").split())
    told = re.search(r"Exit codes: (.+)", help_text)
    assert told is not None, "its help has no exit codes"
    assert codes.split(", ") == re.findall(r"(?:^|[,;] )(\d) ", told[1])
    assert has_json == ("--json" in options(COMMANDS[name]))


WITHOUT_JSON: dict[str, str] = {}
"""Commands that print nothing for programs, and why."""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_json_and_examples(name: str) -> None:
    command = COMMANDS[name]
    assert ("--json" in options(command)) is (name not in WITHOUT_JSON)
    block = re.search(r"\bExamples?:\n(.+?)(?:\n\n|$)", command.help or "", re.DOTALL)
    assert block is not None, "its help has no example"
    for line in block[1].splitlines():
        words = shlex.split(line)
        words = words[words.index("sentinel-extproc") + 1 :]
        end = next((n for n, word in enumerate(words) if word in ("|", "<", ">", ">>")), None)
        words = words[:end]
        assert " ".join(words[: len(name.split())]) == name
        assert {word for word in words if word.startswith("--")} <= options(command)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_a_command_is_explained(name: str) -> None:
    command = COMMANDS[name]
    context = click.Context(command, info_name=name)
    assert command.get_short_help_str(), "its help is empty"
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            shown = parameter.get_help_record(context)
            assert shown is not None
            assert shown[1] or parameter.opts[0] in ("--path", "--method"), parameter.opts


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_are_commands_with_options_that_exist(example: str) -> None:
    words = shlex.split(example)
    name = next(one for one in COMMANDS if words[: len(one.split())] == one.split())
    given = {word for word in words if word.startswith("--")}
    assert given <= options(COMMANDS[name])


def test_the_page_lists_what_a_reload_takes() -> None:
    section = PAGE.partition("Taken by a reload:")[2].partition("\n\nThe content")[0]
    assert set(re.findall(r"`([a-z_.]+)`", section)) == LIVE


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed_for_every_shell(shell: str) -> None:
    shown = CliRunner().invoke(main, ["completion", shell])
    assert shown.exit_code == 0, shown.output
    assert "_SENTINEL_EXTPROC_COMPLETE" in shown.output
    assert f"{shell}_complete" in shown.output


def test_completion_completes() -> None:
    environment = {
        "_SENTINEL_EXTPROC_COMPLETE": "bash_complete",
        "COMP_WORDS": "sentinel-extproc policy rep",
        "COMP_CWORD": "2",
    }
    script = "from sentinel_extproc.cli import main; main(prog_name='sentinel-extproc')"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "plain,replay"


def test_redis_memory_is_as_measured() -> None:
    """The bounds that the page gives hold all that docs/benchmarks.md has."""
    measured = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text("utf-8")
    table = measured.partition("## Redis' memory")[2].partition("\n## ")[0]
    rows = {
        name: [int(cell) for cell in cells.split("|")]
        for name, cells in re.findall(r"^\| ([\w ]+) \| ([\d |]+) \|$", table, re.MULTILINE)
    }
    assert len(rows) == 5
    shown = re.search(r"(\d+) to (\d+) a bucket or quota, (\d+) to (\d+) a ring", PAGE)
    assert shown is not None
    small, large, ring_least, ring_most = (int(number) for number in shown.groups())
    for states in (*rows["1 bucket"][:3], *rows["1 calendar"][:3]):
        assert small - 2 <= states <= large + 2
    assert all(ring_least <= states <= ring_most for states in rows["1 ring"][:3])
    ended = re.search(r"one that has ended \| (\d+) to (\d+)", PAGE)
    assert ended is not None
    assert all(int(ended[1]) <= cells[4] <= int(ended[2]) for cells in rows.values())
    under_way = re.search(r"under way \| (\d+) to (\d+)", PAGE)
    assert under_way is not None
    assert all(int(under_way[1]) <= cells[3] <= int(under_way[2]) for cells in rows.values())


def test_what_was_for_people_only_is_json_on_demand(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in list(os.environ):
        if name.startswith(("SENTINEL_", "ZION_", "OPENAI_", "REDIS_")):
            monkeypatch.delenv(name)

    def told(*arguments: str, code: int = 0) -> Any:
        done = CliRunner().invoke(main, [*arguments, "--json"])
        assert done.exit_code == code, done.output
        return json.loads(done.stdout)

    assert "_SENTINEL_EXTPROC_COMPLETE" in told("completion", "bash")["script"]
    assert told("render", "--target", "envoy")["static_resources"]["listeners"]
    kinds = [one["kind"] for one in told("render", "--target", "istio")["items"]]
    assert "EnvoyFilter" in kinds
    for command in ("serve", "check-config"):
        faults = told(command, code=2)["error"]["faults"]
        assert any(fault.startswith("zion.url: ") for fault in faults)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    monkeypatch.setenv("ZION_API_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("ZION_API_KEY", "zk-1")
    monkeypatch.setenv("SENTINEL_SERVER__WORKERS", "1")
    folder = tmp_path / "outbox.db"
    folder.mkdir()
    monkeypatch.setenv("SENTINEL_USAGE__OUTBOX_PATH", str(folder))
    assert told("serve", code=1)["error"]["code"] == "cant_start"
    for wrong in (("demo",), ("usage", "export", "--format", "csv", "--outbox", "x")):
        assert CliRunner().invoke(main, [*wrong, "--json"]).exit_code == 2
