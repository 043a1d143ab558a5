"""``usage verify``: is the chain whole, do items sum their records, does Zion have the same?"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from sentinel_extproc.usage.chain import Head
from sentinel_extproc.usage_cli.commands import (
    EXIT_FAULT,
    EXIT_UNREADABLE,
    ledger_options,
    readable,
)

_HEAD = re.compile(r"(\d{1,18}):([0-9A-Fa-f]{64})")
_READ_TIMEOUT_S = 60.0


@click.command()
@ledger_options
@click.option(
    "--head",
    "heads",
    multiple=True,
    metavar="SEQ:HASH",
    help="A head that was noted before; `usage status` shows it. May be given several times.",
)
@click.option(
    "--zion-ledger",
    metavar="FILE|URL",
    help="Zion's ledger as JSON lines (idempotencyKey, externalId, aiRequests, aiInputTokens, "
    "aiOutputTokens): a file, - for standard input, or an http(s) URL.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(outbox: Path, heads: tuple[str, ...], zion_ledger: str | None, as_json: bool) -> None:
    """Prove that no record is missing or altered, and that Zion billed each item once.

    Walks the hash chain and sums every item's records. The file's own chain can be rewritten by
    whoever can write the file; a head that was noted elsewhere can't be.

    \b
    Examples:
      sentinel-extproc usage verify
      sentinel-extproc usage verify --head 4711:9f…c2 --json

    Exit codes: 0 all is as it should be, 1 something isn't, 2 wrong usage, 3 not readable.
    """
    from sentinel_extproc.usage_cli.ledger_file import LedgerFile
    from sentinel_extproc.usage_cli.several import beside

    noted = [_head(text) for text in heads]
    for other in [path for path in beside(outbox) if path != outbox]:
        # Each is a chain of its own.
        click.echo(f"Not looked at: {other}; name it with --outbox.", err=True)
    file = LedgerFile(outbox)
    with readable():
        findings = [
            ("chain", finding.kind.value, _records(finding.first, finding.last), finding.detail)
            for finding in file.verify_chain(noted)
        ]
        findings += [("items", "wrong sums", key, detail) for key, detail in file.verify_sums()]
        state = file.status()
        checked: dict[str, Any] = {name: state[name] for name in ("sidecar", "head", "records")}
        if zion_ledger is not None:
            compared = _compare(file, zion_ledger)
            findings += [
                ("Zion", one.mismatch.value, one.key, one.detail) for one in compared.findings
            ]
            checked |= {
                "matched_at_zion": compared.matched,
                "not_acknowledged_yet": compared.unacknowledged,
                "foreign_at_zion": compared.foreign,
                "mismatches_at_zion": compared.mismatches,
            }
    _show(checked, findings, as_json=as_json)
    if findings:
        sys.exit(EXIT_FAULT)


def _head(text: str) -> Head:
    found = _HEAD.fullmatch(text)
    if found is None:
        raise click.UsageError(f"{text!r} is no head: a number, a colon, 64 hexadecimal digits.")
    return Head(int(found[1]), bytes.fromhex(found[2]))


def _records(first: int, last: int) -> str:
    return f"record {first}" if first == last else f"records {first} to {last}"


def _compare(file: Any, source: str) -> Any:
    import sqlite3

    import httpx

    from sentinel_extproc.usage_cli import zion_ledger

    try:
        with _lines(source) as lines:
            return zion_ledger.compare(file.items(), zion_ledger.increments(lines))
    except (OSError, ValueError, httpx.HTTPError, httpx.InvalidURL, sqlite3.Error) as error:
        from sentinel_extproc.terminal import give_up

        message = f"Zion's ledger can't be read: {str(error) or type(error).__name__}"
        give_up(message, code="unreadable", exit_code=EXIT_UNREADABLE)


@contextmanager
def _lines(source: str) -> Iterator[Iterator[str]]:
    if source.startswith(("http://", "https://")):
        import httpx

        with httpx.stream("GET", source, timeout=_READ_TIMEOUT_S) as answer:
            answer.raise_for_status()
            yield answer.iter_lines()
    else:
        with click.open_file(source, encoding="utf-8") as file:
            yield iter(file)


def _show(
    checked: dict[str, Any], findings: list[tuple[str, str, str, str]], *, as_json: bool
) -> None:
    if as_json:
        named = [
            dict(zip(("where", "fault", "about", "detail"), one, strict=True)) for one in findings
        ]
        click.echo(json.dumps({"ok": not findings, **checked, "findings": named}))
        return
    from sentinel_extproc.terminal import console
    from sentinel_extproc.usage_cli.tables import print_facts, print_rows

    out = console()
    print_facts(out, ((name.replace("_", " "), value) for name, value in checked.items()))
    print_rows(out, ("where", "fault", "about", "detail"), findings)
    click.echo("Something is wrong." if findings else "Nothing is missing or altered.")
