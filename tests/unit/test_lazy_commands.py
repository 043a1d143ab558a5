"""Commands are found when they are asked for, and serving doesn't import them."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from sentinel_extproc import cli
from sentinel_extproc.lazy_commands import LazyCommands

NOT_TO_SERVE = (
    "cryptography.hazmat",
    "envoy_data_plane",
    "jwt",
    "openai",
    "pygments",
    "rich",
    "sentinel_extproc.demo",
    "sentinel_extproc.envoyconf",
    "sentinel_extproc.live_cli",
    "sentinel_extproc.loadtest",
    "sentinel_extproc.policy_cli",
    "sentinel_extproc.usage_cli",
)


@pytest.mark.parametrize("name", sorted(cli._LAZY))
def test_each_name_leads_to_its_command(name: str) -> None:
    command = cli.main.get_command(click.Context(cli.main), name)
    assert command is not None
    assert command.name == name


def test_all_are_listed_once_and_in_order() -> None:
    listed = cli.main.list_commands(click.Context(cli.main))
    assert listed == sorted(set(listed))
    assert {"serve", "check-config", *cli._LAZY} <= set(listed)


def test_a_name_that_is_none() -> None:
    group = LazyCommands(lazy={})
    assert group.get_command(click.Context(group), "serve") is None


_AS_SERVE_DOES = """
import sys
from unittest import mock
from sentinel_extproc.cli import main
with mock.patch("sentinel_extproc.config.load.load", side_effect=KeyboardInterrupt):
    try:
        main(["serve"], standalone_mode=False)
    except BaseException:
        print(*sys.modules)
"""


def test_serving_imports_nothing_of_other_commands() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _AS_SERVE_DOES],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    imported = done.stdout.split()
    assert "sentinel_extproc.transport.driver" in imported
    assert not [name for name in imported if name.startswith(NOT_TO_SERVE)]
