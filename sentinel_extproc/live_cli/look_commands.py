"""``limits show`` and ``whoami``: what a running sidecar knows of a user or a token."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import click

from sentinel_extproc.admin.commands import digests_of
from sentinel_extproc.admin.target import EXIT_REFUSED, admin_options, admin_target
from sentinel_extproc.limits.words import number, span


@click.group()
def limits() -> None:
    """Look at limits of a running sidecar."""


@limits.command()
@click.argument("user")
@click.option("--path", help="Of the requests meant; else chat completions.")
@click.option("--model", default="", help="Asked for; some limits go by it.")
@click.option("--plan", help="Where Zion names none.")
@admin_options
def show(user: str, path: str | None, model: str, plan: str | None, **admin: Any) -> None:
    """Show the limits of a user and what is left of them. Takes nothing.

    USER is the external id. Which limits apply can depend on path, model and plan.

    \b
    Examples:
      sentinel-extproc limits show 4711
      sentinel-extproc limits show 4711 --model gpt-4o --plan pro --json

    Exit codes: 0 shown, 1 refused, 2 wrong usage, 3 nobody answered.
    """
    target = admin_target(**admin)
    question = {"user": user, "path": path, "model": model, "plan": plan}
    told = target.call("POST", "/v1/limits", question)
    if target.as_json:
        click.echo(json.dumps(told))
        return
    from sentinel_extproc.terminal import console
    from sentinel_extproc.usage_cli.tables import print_facts, print_rows

    out = console()
    print_facts(out, [(name, told[name] or None) for name in ("user", "plan", "path", "model")])
    headings = ("limit", "unit", "allows", "left", "whole again in")
    if not print_rows(out, headings, map(_limit_cells, told["limits"])):
        click.echo("No limit applies.")


@click.command()
@click.argument("source", metavar="FILE", type=click.File("r"), required=False)
@admin_options
def whoami(source: Any, **admin: Any) -> None:
    """Show whose token it is, as far as the sidecar remembers: user, plan, quotas, revoked or not.

    The token is read from FILE, from standard input for -, or is asked for. It is never an
    argument, where others could see it in the list of processes; only its SHA-256 is sent. A
    token that nobody has used lately isn't remembered: the identity source isn't asked.

    \b
    Examples:
      sentinel-extproc whoami token.txt
      pass show llm-token | sentinel-extproc whoami -

    Exit codes: 0 remembered and not revoked, 1 revoked, not remembered or refused, 2 wrong usage,
    3 nobody answered.
    """
    from sentinel_extproc.admin.control import MAX_TOKEN_CHARS

    target = admin_target(**admin)
    if source is None:
        given = click.prompt("Token", hide_input=True, err=True)
    else:
        given = source.read(MAX_TOKEN_CHARS + 16)
    told = target.call("POST", "/v1/whoami", digests_of(given.strip()))
    if target.as_json:
        click.echo(json.dumps(told))
    else:
        from sentinel_extproc.terminal import console
        from sentinel_extproc.usage_cli.tables import print_facts, print_rows

        out = console()
        print_facts(out, _facts(told))
        if told.get("quotas"):
            headings = ("quota", "unit", "allows", "used", "period")
            print_rows(out, headings, map(_quota_cells, told["quotas"]))
    if told["revoked"] or told["principal"] is None:
        sys.exit(EXIT_REFUSED)


def _facts(told: dict[str, Any]) -> Iterator[tuple[str, str | int | None]]:
    places = {"process": "by this sidecar", "shared": "by another replica", None: "no"}
    yield "remembered", places[told["remembered"]]
    revoked = told["revoked"]
    yield "revoked", "can't be told now" if revoked is None else "yes" if revoked else "no"
    if told["checked_seconds_ago"] is not None:
        yield "checked at the source", f"{span(told['checked_seconds_ago'])} ago"
    if (principal := told["principal"]) is not None:
        yield "external id", principal["external_id"]
        yield "user id", principal["user_id"] or None
        yield "email", principal["email"] or None
        yield "plan", told["plan"]
        if told["quotas"] is None:
            yield "quotas", told["quotas_fault"]


def _limit_cells(one: dict[str, Any]) -> tuple[str | int | None, ...]:
    reset = one["reset_seconds"]
    return (
        one["name"] + (" (shadow)" if one["shadow"] else ""),
        one["unit"],
        f"{_amount(one['limit'])} at once" if one["at_once"] else _amount(one["limit"]),
        _amount(one["remaining"]),
        span(reset) if reset is not None else "they end" if one["at_once"] else "never",
    )


def _quota_cells(one: dict[str, Any]) -> tuple[str | int | None, ...]:
    return (one["name"], one["unit"], one["limit"], one["used"], one["period"].lower())


def _amount(given: int | float) -> str:
    return number(given)
