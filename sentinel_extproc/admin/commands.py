"""``revoke``, ``invalidate`` and ``status``: the command line's side of the admin port.

Exit codes: 0 done; 1 refused, or not certain everywhere; 2 wrong usage; 3 nobody answered, so it
isn't known whether it was done.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

import click

from sentinel_extproc.admin.target import EXIT_REFUSED, Target, admin_options, admin_target


@click.command()
@click.option("--token-stdin", is_flag=True, help="Revoke the token read from standard input.")
@click.option("--token-sha256", metavar="HEX", help="Revoke the token with this SHA-256.")
@click.option("--owner", metavar="ID", help="External id of the token's user, if you know it.")
@click.option("--user", metavar="ID", help="Revoke all tokens of the user with this external id.")
@click.option("--everybody", is_flag=True, help="Revoke all tokens of all users.")
@click.option("--streams", is_flag=True, help="End the answers that are running, too.")
@click.option("--reason", default="", help="For the log.")
@click.option("--yes", is_flag=True, help="Don't ask, with --everybody.")
@admin_options
def revoke(
    token_stdin: bool,
    token_sha256: str | None,
    owner: str | None,
    user: str | None,
    everybody: bool,
    streams: bool,
    reason: str,
    yes: bool,
    **admin: Any,
) -> None:
    """End all trust in a token, a user's tokens, or everybody's.

    From the next request on, at every replica, only the identity source's own answer counts; what
    was cached is believed no more. A token that is still good at the source works again after
    that: to lock somebody out, revoke it there first and here second.

    The token itself is never an argument, where others could see it in the list of processes; only
    its SHA-256 is sent.

    \b
    Examples:
      sentinel-extproc revoke --user 4711 --streams --reason "account closed"
      sentinel-extproc revoke --token-stdin < token.txt

    Exit codes: 0 done, 1 refused or not certain everywhere, 2 wrong usage, 3 nobody answered.
    """
    body = _body(token_stdin, token_sha256, user, everybody)
    if owner is not None:
        if user is not None or everybody:
            raise click.UsageError("--owner goes with a token.")
        body["owner"] = owner
    target = admin_target(**admin)
    if everybody and not yes:
        _confirm("Every user's next request will be checked with the identity source anew. Go on?")
    _show(target, target.call("POST", "/v1/revoke", body | {"streams": streams, "reason": reason}))


@click.command()
@click.option("--token-stdin", is_flag=True, help="Forget the token read from standard input.")
@click.option("--token-sha256", metavar="HEX", help="Forget the token with this SHA-256.")
@click.option("--user", metavar="ID", help="Forget the user with this external id.")
@click.option("--everybody", is_flag=True, help="Forget everybody.")
@admin_options
def invalidate(
    token_stdin: bool,
    token_sha256: str | None,
    user: str | None,
    everybody: bool,
    **admin: Any,
) -> None:
    """Forget what is cached: identity, plan and quotas are asked for anew.

    Use it when a user's plan or quota was changed in the user service and should count at once.

    \b
    Examples:
      sentinel-extproc invalidate --user 4711
      sentinel-extproc invalidate --everybody --json

    Exit codes: 0 done, 1 refused, 2 wrong usage, 3 nobody answered.
    """
    body = _body(token_stdin, token_sha256, user, everybody)
    target = admin_target(**admin)
    _show(target, target.call("POST", "/v1/invalidate", body))


@click.command()
@admin_options
def status(**admin: Any) -> None:
    """Show how a running sidecar is doing: traffic, limits, identity, usage to be billed.

    \b
    Examples:
      sentinel-extproc status
      sentinel-extproc status --json | jq .outbox

    Exit codes: 0 shown, 1 refused, 2 wrong usage, 3 nobody answered.
    """
    target = admin_target(**admin)
    answer = target.call("GET", "/v1/status")
    if target.as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    from sentinel_extproc.admin.status_view import status_view
    from sentinel_extproc.terminal import console

    console().print(status_view(target.address, answer))


def _body(
    token_stdin: bool, token_sha256: str | None, user: str | None, everybody: bool
) -> dict[str, Any]:
    if sum((token_stdin, token_sha256 is not None, user is not None, everybody)) != 1:
        raise click.UsageError(
            "Name exactly one of --token-stdin, --token-sha256, --user and --everybody."
        )
    if token_stdin:
        return _digests_of_stdin()
    if token_sha256 is not None:
        return {"token_sha256": token_sha256}
    return {"everybody": True} if user is None else {"user": user}


def _digests_of_stdin() -> dict[str, Any]:
    from sentinel_extproc.admin.control import MAX_TOKEN_CHARS

    given = sys.stdin.buffer.read(MAX_TOKEN_CHARS + 16).decode("ascii", "replace")
    return digests_of(given.strip())


def digests_of(given: str) -> dict[str, Any]:
    """What names a token in calls, which never carry it; what can't be one is wrong usage."""
    from sentinel_extproc.admin.control import token_digest
    from sentinel_extproc.errors import InvalidRequest
    from sentinel_extproc.identity.expiry import signed_sha256

    try:
        digests = {"token_sha256": token_digest(given).hex()}
    except InvalidRequest as error:
        raise click.UsageError(error.message) from None
    signed = signed_sha256(given)
    return digests if signed is None else digests | {"signed_sha256": signed.hex()}


def _confirm(question: str) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError("--everybody needs --yes when there is nobody to ask.")
    click.confirm(question, abort=True)


def _show(target: Target, answer: Mapping[str, Any]) -> None:
    if target.as_json:
        click.echo(json.dumps(answer))
    else:
        _print_effect(answer)
    if answer.get("action") == "revoked" and not answer.get("everywhere"):
        sys.exit(EXIT_REFUSED)


def _print_effect(answer: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    about = answer.get("target", {})
    table = Table("", "", show_header=False)
    table.add_row(str(answer.get("action", "done")), _plain(" ".join(map(str, about.values()))))
    everywhere = bool(answer.get("everywhere"))
    table.add_row("certain everywhere", "yes" if everywhere else "no")
    replicas = answer.get("replicas")
    table.add_row("replicas told at once", "unknown" if replicas is None else str(replicas))
    if answer.get("streams"):
        table.add_row("streams ended", str(answer["streams"]))
    Console().print(table)
    if answer.get("action") == "revoked" and not everywhere:
        click.echo(
            "Other replicas may accept it until they check it again. "
            "If it is a token, name its user with --owner and repeat it.",
            err=True,
        )


def _plain(text: object) -> str:
    from rich.markup import escape

    return escape(str(text).replace("_", " "))
