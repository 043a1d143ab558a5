"""The command group ``policy``."""

from __future__ import annotations

import click

from sentinel_extproc.policy_cli.replay_command import replay


@click.group(commands=[replay])
def policy() -> None:
    """Try a policy of limits before it is used."""
