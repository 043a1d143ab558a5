"""The command group ``usage``."""

from __future__ import annotations

import click

from sentinel_extproc.usage_cli.commands import dead_letters, export, list_records, status
from sentinel_extproc.usage_cli.replaying import replay
from sentinel_extproc.usage_cli.verifying import verify


@click.group(commands=[status, list_records, verify, dead_letters, replay, export])
def usage() -> None:
    """Read the ledger of usage: list it, prove it, export it, send again what was refused."""
