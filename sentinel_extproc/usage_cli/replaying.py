"""``usage replay``: send again what waits for a person, through the sidecar or without one.

Exit codes: 0 all of it will be sent again; 1 refused, or some ids don't wait here any more; 2 wrong
usage; 3 neither the sidecar nor the file could be used.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import click

from sentinel_extproc.admin.target import admin_options, admin_target
from sentinel_extproc.usage_cli.commands import (
    EXIT_FAULT,
    EXIT_UNREADABLE,
    outbox_option,
    readable,
)


@click.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--all", "everything", is_flag=True, help="All dead letters and parked items.")
@click.option("--user", metavar="ID", help="With --all: of this user, by external id or email.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@outbox_option
@admin_options
def replay(
    ids: tuple[str, ...],
    everything: bool,
    user: str | None,
    yes: bool,
    outbox: Path,
    **admin: Any,
) -> None:
    """Send dead letters and parked items to Zion again, under their old idempotency keys.

    If a sidecar has the outbox open, its admin port is asked; else the file is changed, and the
    next sidecar sends them.

    What was parked may have been billed already. Only if Zion knows items again by their keys is
    it safe to send it twice.

    \b
    Examples:
      sentinel-extproc usage replay 01932f6e-7c1d-7b3e-9d2f-0a1b2c3d4e5f
      sentinel-extproc usage replay --all --user 4711 --yes

    Exit codes: 0 all will be sent again, 1 not all, 2 wrong usage, 3 nobody could do it.
    """
    if bool(ids) == everything:
        raise click.UsageError("Name ids, or say --all.")
    if user is not None and not everything:
        raise click.UsageError("--user goes with --all.")
    wanted = list(dict.fromkeys(ids)) if ids else _held(outbox, user)
    if wanted and not yes:
        _confirm(len(wanted))
    replayed = sum(_replay(block, outbox, admin) for block in _blocks(wanted)) if wanted else 0
    if admin["as_json"]:
        click.echo(json.dumps({"asked": len(wanted), "replayed": replayed}))
    else:
        click.echo(f"{replayed} of {len(wanted)} will be sent again.")
    if replayed < len(wanted):
        sys.exit(EXIT_FAULT)


def _held(outbox: Path, user: str | None) -> list[str]:
    from sentinel_extproc.usage_cli import several

    with readable():
        return [held.item.id for held in several.held(outbox, user)]


def _confirm(count: int) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError("It needs --yes when there is nobody to ask.")
    what = "1 item" if count == 1 else f"{count} items"
    click.confirm(f"Send {what} to Zion again?", abort=True)


def _replay(ids: Sequence[str], outbox: Path, admin: dict[str, Any]) -> int:
    from sentinel_extproc.usage_cli.several import beside

    paths = beside(outbox)
    if admin["address"] is None and not any(map(_in_use, paths)):
        return sum(_replay_in_file(ids, path) for path in paths)
    answer = admin_target(**admin).call("POST", "/v1/usage/replay", {"ids": list(ids)})
    return int(answer["replayed"])


def _in_use(outbox: Path) -> bool:
    from sentinel_extproc.usage import files

    if not outbox.is_file():
        from sentinel_extproc.terminal import give_up

        message = f"There is no outbox at {outbox}."
        give_up(message, code="unreadable", exit_code=EXIT_UNREADABLE)
    try:
        os.close(files.lock(outbox))
    except files.OutboxError:
        return True
    return False


def _replay_in_file(ids: Sequence[str], path: Path) -> int:
    from sentinel_extproc.errors import Unavailable
    from sentinel_extproc.usage.outbox import Outbox, OutboxError

    async def change() -> int:
        outbox = Outbox(path)
        outbox.open()
        try:
            return await outbox.replay(ids)
        finally:
            await outbox.aclose()

    try:
        return asyncio.run(change())
    except (OutboxError, Unavailable) as error:
        from sentinel_extproc.terminal import give_up

        message = f"The outbox can't be changed: {error}"
        give_up(message, code="unchanged", exit_code=EXIT_UNREADABLE)


def _blocks(ids: Sequence[str]) -> Iterator[list[str]]:
    from sentinel_extproc.admin.control import MAX_REPLAYED

    remaining = iter(ids)
    while block := list(islice(remaining, MAX_REPLAYED)):
        yield block
