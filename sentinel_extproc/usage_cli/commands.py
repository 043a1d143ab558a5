"""``sentinel-extproc usage``: the commands that only read.

Exit codes: 0 done, and nothing is wrong; 1 something is; 2 wrong usage; 3 the ledger, or the one to
compare it with, can't be read.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, TextIO, TypeVar

import click

from sentinel_extproc.usage.record import Outcome, Provenance
from sentinel_extproc.usage_cli.columns import Delivery
from sentinel_extproc.usage_cli.filters import Filter, moment_ms

EXIT_FAULT = 1
EXIT_UNREADABLE = 3

_CONFIG_FILE = "sentinel_extproc.usage.config_file"
"""Where a command's context keeps the value of ``--config``."""

_Command = TypeVar("_Command", bound=Callable[..., Any])


def _choice(kind: type[Provenance | Outcome | Delivery]) -> click.Choice[str]:
    return click.Choice([member.value for member in kind])


def configured_outbox() -> Path:
    """Where the configuration says. No other section of it is read: those may need secrets that
    only the sidecar is given."""
    from sentinel_extproc.config.load import ConfigError, load_section
    from sentinel_extproc.config.sections.usage import UsageSettings

    context = click.get_current_context()
    named = context.meta.get(_CONFIG_FILE) or context.params.get("config_file")
    # While options are still being read, click keeps a mark of its own for those not given.
    file = named if isinstance(named, Path) else None
    try:
        return load_section("usage", UsageSettings, file).outbox_path
    except ConfigError as error:
        raise click.UsageError("\n".join(error.faults)) from None


def outbox_option(command: _Command) -> _Command:
    """Decorator: ``outbox``, the file's path."""
    return click.option(
        "--outbox",
        type=click.Path(path_type=Path, dir_okay=False),
        envvar="SENTINEL_USAGE__OUTBOX_PATH",
        default=configured_outbox,
        help="The sidecar's outbox, with those of further workers beside it; it may be running."
        " Default: where the configuration says.",
    )(command)


def ledger_options(command: _Command) -> _Command:
    """Decorator: ``outbox``, and ``--config`` for where it is by default."""
    return click.option(
        "--config",
        type=click.Path(path_type=Path, dir_okay=False),
        is_eager=True,
        expose_value=False,
        callback=_keep_config_file,
        help="The sidecar's YAML file with settings; SENTINEL_CONFIG may name it too. Only its "
        "usage section is read.",
    )(outbox_option(command))


def _keep_config_file(context: click.Context, _: click.Parameter, file: Path | None) -> None:
    context.meta[_CONFIG_FILE] = file


_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _filter_options(command: _Command) -> _Command:
    for option in reversed(
        (
            click.option("--user", metavar="ID", help="External id or email."),
            click.option("--model", help="Asked for or served."),
            click.option(
                "--since",
                metavar="TIME",
                help="2026-11-23, 2026-11-23T10:00 (UTC), or 36h, 7d ago.",
            ),
            click.option("--until", metavar="TIME", help="Before this time."),
            click.option(
                "--state", type=_choice(Delivery), help="How far it is on its way to Zion."
            ),
            click.option("--provenance", type=_choice(Provenance), help="Whose numbers of tokens."),
            click.option("--outcome", type=_choice(Outcome), help="How it ended."),
        )
    ):
        command = option(command)
    return command


def filter_of(since: str | None, until: str | None, **given: str | None) -> Filter:
    """What the options mean; a time that can't be read is wrong usage."""
    now = datetime.now(UTC)
    try:
        return Filter(
            since_ms=None if since is None else moment_ms(since, now=now),
            until_ms=None if until is None else moment_ms(until, now=now),
            **given,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from None


@contextmanager
def readable() -> Iterator[None]:
    """Ends the process, saying why, when the ledger can't be read."""
    from sentinel_extproc.usage_cli.ledger_file import LedgerFileError

    try:
        yield
    except LedgerFileError as error:
        from sentinel_extproc.terminal import give_up

        message = f"The ledger can't be read: {error}"
        give_up(message, code="unreadable", exit_code=EXIT_UNREADABLE)


@click.command()
@ledger_options
@_json_option
def status(outbox: Path, as_json: bool) -> None:
    """Show whose ledger it is, how much is in it, and what is still on its way to Zion.

    A record is one request. Records are summed up by user and model, and the sums go to Zion. The
    last record's number and hash stand for all before it: noted elsewhere, they prove later that
    none was changed (usage verify --head).

    \b
    Examples:
      sentinel-extproc usage status
      sentinel-extproc usage status --json | jq .dead_items

    Exit codes: 0 shown, 1 something waits for a person, 2 wrong usage, 3 not readable.
    """
    from sentinel_extproc.terminal import console
    from sentinel_extproc.usage_cli import several
    from sentinel_extproc.usage_cli.tables import print_facts
    from sentinel_extproc.usage_cli.wording import FACTS

    with readable():
        facts = several.status(outbox)
    if as_json:
        click.echo(json.dumps(facts))
    else:
        for one in facts.get("outboxes", [facts]):
            named = ((FACTS.get(name, name.replace("_", " ")), n) for name, n in one.items())
            print_facts(console(), named)
    if facts["dead_items"] or facts["parked_items"]:
        sys.exit(EXIT_FAULT)


@click.command("list")
@ledger_options
@_filter_options
@click.option(
    "--limit", type=click.IntRange(0), default=50, show_default=True, help="0: all of them."
)
@click.option("--oldest-first", is_flag=True, help="Else the newest come first.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object per line.")
def list_records(outbox: Path, limit: int, oldest_first: bool, as_json: bool, **given: Any) -> None:
    """List records, one per request: who, which model, how many tokens, and whether it is billed.

    What the words in the columns state, numbers and ended mean stands below the table.

    \b
    Examples:
      sentinel-extproc usage list --user 4711 --since 24h
      sentinel-extproc usage list --state dead --json

    Exit codes: 0 listed, 2 wrong usage, 3 not readable.
    """
    from sentinel_extproc.terminal import console
    from sentinel_extproc.usage_cli import several, tables
    from sentinel_extproc.usage_cli.columns import plain
    from sentinel_extproc.usage_cli.wording import Legend

    entries = several.entries(outbox, filter_of(**given), newest_first=not oldest_first)
    shown = islice(entries, limit or None)
    with readable():
        if as_json:
            _json_lines(sys.stdout, map(plain, shown))
            return
        legend = Legend()
        rows = map(tables.record_cells, legend.noting(shown))
        if not tables.print_rows(console(), tables.RECORD_HEADINGS, rows):
            click.echo("No such records.", err=True)
        for line in legend.lines():
            click.echo(line)


@click.command()
@ledger_options
@_filter_options
@click.option(
    "--format",
    "as_format",
    type=click.Choice(["jsonl", "csv", "focus"]),
    default="jsonl",
    show_default=True,
    help="focus is CSV with the columns of the FinOps FOCUS specification.",
)
@click.option(
    "-o",
    "--output",
    type=click.File("w", encoding="utf-8", lazy=True),
    default="-",
    help="File; else standard output.",
)
@click.option("--json", "as_json", is_flag=True, help="As --format jsonl: an object per line.")
def export(outbox: Path, as_format: str, output: TextIO, as_json: bool, **given: Any) -> None:
    """Write records for other programs, oldest first, however many there are.

    In CSV, text that a spreadsheet could take for a formula has an apostrophe in front, and what
    isn't visible is spelt out; JSON lines have it as it was.

    \b
    Examples:
      sentinel-extproc usage export --since 2026-11-01 --until 2026-12-01 -o november.jsonl
      sentinel-extproc usage export --format focus -o focus.csv

    Exit codes: 0 written, 2 wrong usage, 3 not readable.
    """
    if as_json and as_format != "jsonl":
        raise click.UsageError("--json and --format are not one form.")
    from sentinel_extproc.usage_cli import columns, several

    entries = several.entries(outbox, filter_of(**given))
    with readable():
        if as_format == "jsonl":
            _json_lines(output, map(columns.plain, entries))
            return
        row_of = columns.focus if as_format == "focus" else columns.plain
        writer = csv.writer(output)
        writer.writerow(columns.headings(row_of))
        for entry in entries:
            writer.writerow(columns.csv_cells(row_of(entry)))


@click.command("dead-letters")
@ledger_options
@click.option("--user", metavar="ID", help="External id or email.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object per line.")
def dead_letters(outbox: Path, user: str | None, as_json: bool) -> None:
    """List items that Zion refused for good, and parked ones of which nobody knows.

    `usage replay` sends them again once the reason is gone.

    \b
    Examples:
      sentinel-extproc usage dead-letters
      sentinel-extproc usage dead-letters --user 4711 --json

    Exit codes: 0 there are none, 1 there are some, 2 wrong usage, 3 not readable.
    """
    from sentinel_extproc.terminal import console
    from sentinel_extproc.usage_cli import several, tables
    from sentinel_extproc.usage_cli.columns import item_plain

    found = 0

    def counted() -> Iterator[dict[str, Any]]:
        nonlocal found
        for held in several.held(outbox, user):
            found += 1
            yield item_plain(held)

    with readable():
        if as_json:
            _json_lines(sys.stdout, counted())
        else:
            headings = ("id", "state", "user", "model", "requests", "input", "output", "reason")
            rows = ([item[_HELD_KEYS[name]] for name in headings] for item in counted())
            if not tables.print_rows(console(), headings, rows):
                click.echo("No dead letters.", err=True)
    if found:
        sys.exit(EXIT_FAULT)


_HELD_KEYS = {
    "id": "id",
    "state": "state",
    "user": "external_id",
    "model": "model",
    "requests": "requests",
    "input": "input_tokens",
    "output": "output_tokens",
    "reason": "reason",
}


def _json_lines(output: TextIO, rows: Iterable[dict[str, Any]]) -> None:
    # ASCII only, so that no text of a user's reaches a terminal as it is.
    for row in rows:
        output.write(json.dumps(row, separators=(",", ":")) + "\n")
