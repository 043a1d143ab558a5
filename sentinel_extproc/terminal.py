"""Where commands print for people, and how they end when they can't do what was asked."""

from __future__ import annotations

import json
import os
import sys
from typing import NoReturn

import click
from rich.console import Console

_WIDE = 200
"""Columns where nobody looks at a screen."""


def console() -> Console:
    """For standard output: as wide as the terminal, and wide where there is none."""
    made = Console()
    return made if made.is_terminal or "COLUMNS" in os.environ else Console(width=_WIDE)


def give_up(message: str, *, code: str, exit_code: int) -> NoReturn:
    """Say why, to programs as JSON if the command was given ``--json``, and end the process."""
    if click.get_current_context().params.get("as_json"):
        click.echo(json.dumps({"error": {"message": message, "code": code}}))
    else:
        click.echo(message, err=True)
    sys.exit(exit_code)
