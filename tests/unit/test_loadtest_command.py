"""``load`` before anything is sent: what it refuses, and that nobody answering is told."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sentinel_extproc.loadtest.command import DemoGateway, load_command


@contextmanager
def nowhere() -> Iterator[DemoGateway]:
    """A gateway that has gone again: its port was ours a moment ago, and nobody listens there."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield DemoGateway(
            f"http://127.0.0.1:{held.getsockname()[1]}",
            {"token": "t-{n}", "count": 2},
            {"x-standin-tokens": "{output_tokens}"},
        )


def no_demo() -> AbstractContextManager[DemoGateway]:
    raise AssertionError("not asked for")


def run(*arguments: str, demo: bool = False) -> Result:
    return CliRunner().invoke(load_command(nowhere if demo else no_demo), arguments)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--users", "1", "--rate", "1"], "give one of them"),
        (["--demo", "--url", "http://127.0.0.1:1"], "leave --url out"),
        (["--url", "http://192.0.2.1"], "--allow-remote"),
        (["--duration", "soon"], "load.duration: must be a duration"),
        (["--users", "0"], "load.users"),
        (["--fail-if", "speed>1"], "no such metric"),
        (["--json", "/nowhere/r.json"], "No such file"),
        (["--ca-file", __file__], "certificate"),
    ],
)
def test_what_it_refuses(arguments: list[str], why: str) -> None:
    result = run(*arguments)
    assert (result.exit_code, why in result.stderr) == (2, True), result.stderr


def test_nobody_answering_is_told() -> None:
    result = run("--demo", "--max-requests", "3", "--json", "-", demo=True)
    assert result.exit_code == 3, result.output
    report = json.loads(result.stdout)
    assert report["all"]["reasons"] == {"no connection": 3}
    assert report["users"] == 2


def test_a_missing_package_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    result = run("--demo")
    assert result.exit_code == 1
    assert "pip install '.[load]'" in result.stderr


def test_options_go_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mix.yaml"
    file.write_text(
        "target: http://192.0.2.1\nusers: {token: a}\n"
        "load: {users: 5}\nmix: [{name: x, headers: {x-standin-tokens: '5'}}]\n"
    )
    asked = ("--demo", "--rate", "500", "--max-requests", "2", "--seed", "9", "--json", "-")
    report = json.loads(run(str(file), *asked, demo=True).stdout)
    assert (report["load"]["model"], report["load"]["rate"], report["seed"]) == ("open", 500, 9)
    assert report["all"]["requests"] == 2
