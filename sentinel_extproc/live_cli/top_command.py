"""``top``: a running sidecar at a glance, again and again."""

from __future__ import annotations

import json
import os
import select
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sentinel_extproc.admin.fleet_words import fleet_state
from sentinel_extproc.admin.target import Target, admin_options, admin_target
from sentinel_extproc.live_cli.rates import Look, Rates, between, read_look


@click.command()
@click.option(
    "--interval",
    type=click.FloatRange(0.2, 60.0),
    default=2.0,
    show_default=True,
    help="Seconds between two looks.",
)
@click.option("--once", is_flag=True, help="Look for one interval, print, and end.")
@admin_options
def top(interval: float, once: bool, **admin: Any) -> None:
    """Show live who uses what: top users and models, requests, tokens and refusals per second.

    q or Ctrl-C ends it. Without a terminal, and with --json, it prints once.

    \b
    Examples:
      sentinel-extproc top
      sentinel-extproc top --once --interval 10 --json | jq .refusals_by_code

    Exit codes: 0 shown, 1 refused, 2 wrong usage, 3 nobody answered.
    """
    target = admin_target(**admin)
    if once or target.as_json or not sys.stdout.isatty():
        _once(target, interval)
        return
    with _keys() as pressed, Live(screen=True, auto_refresh=False) as live:
        before = _look(target)
        live.update(Text("Looking …"), refresh=True)
        while not pressed(interval):
            after = _look(target)
            view = _view(target.address, between(before, after), target.call("GET", "/v1/status"))
            live.update(view, refresh=True)
            before = after


def _once(target: Target, interval: float) -> None:
    before = _look(target)
    time.sleep(interval)
    rates, status = between(before, _look(target)), target.call("GET", "/v1/status")
    if target.as_json:
        click.echo(json.dumps(rates.plain() | {"status": status}))
        return
    from sentinel_extproc.terminal import console

    console().print(_view(target.address, rates, status))


def _look(target: Target) -> Look:
    text = target.metrics()
    try:
        return read_look(text, time.monotonic())
    except ValueError:
        target.fail("That is no admin port: its metrics can't be read.", "unreachable", 3)


@contextmanager
def _keys() -> Iterator[Callable[[float], bool]]:
    """Gives what waits for so many seconds, and says whether the user wants to end."""
    import termios
    import tty

    watched = [sys.stdin.fileno()] if sys.stdin.isatty() else []

    def pressed(seconds: float) -> bool:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            for number in select.select(watched, [], [], left)[0]:
                keys = os.read(number, 16)
                if not keys or b"q" in keys.lower():
                    return True
        return False

    before = [termios.tcgetattr(number) for number in watched]
    try:
        for number in watched:
            tty.setcbreak(number)
        yield pressed
    except KeyboardInterrupt:
        pass
    finally:
        for number, attributes in zip(watched, before, strict=True):
            termios.tcsetattr(number, termios.TCSADRAIN, attributes)


def _view(address: str, rates: Rates, status: Mapping[str, Any]) -> RenderableType:
    head = Table(title=Text(f"Sentinel at {address}"), show_header=False)
    refused = Text(f"{rates.refused:,.1f}/s", style="bold red" if rates.refused else "")
    exchanges, limits = status.get("exchanges", {}), status.get("limits", {})
    zion, outbox = status.get("zion", {}), status.get("outbox", {})
    rows: tuple[tuple[str, Text | str, str, str], ...] = (
        ("admitted", f"{rates.admitted:,.1f}/s", "running", _shown(exchanges.get("live"))),
        ("refused", refused, "limit store", _shown(limits.get("store"))),
        (
            "input",
            f"{rates.input_tokens:,.0f} tokens/s",
            "Zion",
            zion_word(zion),
        ),
        (
            "output",
            f"{rates.output_tokens:,.0f} tokens/s",
            "undelivered",
            _shown(outbox.get("undelivered")),
        ),
    )
    for row in rows:
        head.add_row(*row)
    recent = status.get("top") or {}
    fleet = fleet_state(status)
    if fleet is not None:
        style = {"ok": "", "warn": "yellow", "bad": "bold red"}[fleet.mood]
        head.caption = Text(f"Workers: {fleet.word}; {fleet.detail}", style=style)
        head.caption_justify = "left"
    return Group(
        head,
        _table("tokens by user, last 10 to 15 minutes", recent.get("users") or {}, "{:,}"),
        _table("tokens by model, last 10 to 15 minutes", recent.get("models") or {}, "{:,}"),
        _table("tokens/s by model", rates.models),
        _table("requests/s by endpoint", rates.endpoints),
        _table("refusals/s by reason", rates.reasons),
    )


def _table(title: str, rates: Mapping[str, float], form: str = "{:,.1f}") -> Table:
    from sentinel_extproc.safe_text import for_terminal

    table = Table(title=title, show_header=False, min_width=40)
    table.add_column(overflow="fold")
    table.add_column(justify="right")
    for name, rate in rates.items():
        table.add_row(Text(for_terminal(name) or "—"), form.format(rate))
    if not rates:
        table.add_row("none", "")
    return table


def zion_word(zion: Mapping[str, Any]) -> str:
    """How Zion is, of the status' part about it."""
    from sentinel_extproc.admin.page.tables import breaker_word

    if zion.get("own_key") == "refused":
        return "refuses our key"
    state = zion.get("lookup_breaker")
    return "—" if state is None else breaker_word(str(state))[0]


def _shown(value: object) -> str:
    return "—" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
