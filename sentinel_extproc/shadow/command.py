"""The command group ``shadow``."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import click

from sentinel_extproc.shadow.report import as_text, report
from sentinel_extproc.shadow.store import ShadowStore

EXIT_UNREADABLE = 1


def configured_report(config_file: Path | None) -> Path:
    """Where the configuration says."""
    from sentinel_extproc.config.load import ConfigError, load_section
    from sentinel_extproc.config.sections.serving import ShadowSettings

    try:
        return load_section("shadow", ShadowSettings, config_file).report_path
    except ConfigError as error:
        raise click.UsageError("\n".join(error.faults)) from None


@click.group()
def shadow() -> None:
    """Before enforcing: who would have been refused."""


@shadow.command("report")
@click.option(
    "--file",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The sidecar's report; it may be in use. Default: where the configuration says "
    "(shadow.report_path).",
)
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The sidecar's YAML file with settings; SENTINEL_CONFIG may name it too. Only its shadow "
    "section is read.",
)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def show(file: Path | None, config_file: Path | None, as_json: bool) -> None:
    """Print by user, limit and reason how many requests would have been refused, and when.

    \b
    Examples:
      sentinel-extproc shadow report
      sentinel-extproc shadow report --json | jq .rows

    Exit codes: 0 printed, 1 the file can't be read, 2 wrong usage.
    """
    file = file or configured_report(config_file)
    try:
        told = report(ShadowStore(file).read())
    except (OSError, sqlite3.Error) as error:
        from sentinel_extproc.terminal import give_up

        give_up(f"{file}: {error}", code="unreadable", exit_code=EXIT_UNREADABLE)
    click.echo(json.dumps(told, indent=2) if as_json else as_text(told), nl=as_json)
