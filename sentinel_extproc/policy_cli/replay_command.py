"""``sentinel-extproc policy replay``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from sentinel_extproc.policy_cli.configured import FILE, config_option, configured, read_policy
from sentinel_extproc.usage_cli.commands import configured_outbox, filter_of, readable

EXIT_TOO_LARGE = 1
MAX_PLANS_BYTES = 64 << 20


@click.command()
@click.option("--policy", "policy_file", type=FILE, required=True, help="The proposed policy.")
@click.option("--current", "current_file", type=FILE, help="Else the configured policy.")
@click.option(
    "--outbox",
    "outboxes",
    type=FILE,
    multiple=True,
    help="A sidecar's outbox; several for all sidecars that share limits. It may be running. "
    "Default: where the configuration says, with those of further workers.",
)
@click.option("--since", metavar="TIME", help="2026-11-23, 2026-11-23T10:00 (UTC), or 36h, 7d ago.")
@click.option("--until", metavar="TIME", help="Before this time.")
@click.option("--user", metavar="ID", help="External id or email; else everybody.")
@click.option("--plans", "plans_file", type=FILE, help="YAML or JSON: external id to plan.")
@click.option("--default-plan", metavar="PLAN", help="Of everybody who isn't in --plans.")
@click.option("--top", type=click.IntRange(0), default=20, show_default=True, help="Users to name.")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def replay(
    policy_file: Path,
    current_file: Path | None,
    outboxes: tuple[Path, ...],
    since: str | None,
    until: str | None,
    user: str | None,
    plans_file: Path | None,
    default_plan: str | None,
    top: int,
    config_file: Path | None,
    as_json: bool,
) -> None:
    """Tell who would have been refused in the past by a proposed policy, and by which limit.

    Every request that the ledger still has is taken from the limits at its own time, with the
    tokens that it used; compared with what the current policy would have done. Nothing is changed,
    and nobody is asked.

    What can't be known: requests that were refused then aren't in the ledger, a refused client may
    have tried again, limits are taken as whole at the first request, and while a request ran its
    reservation may have held more than it used. Limits on what is under way at once aren't judged,
    nor are Zion's quotas looked at.

    \b
    Example:
      sentinel-extproc policy replay --policy new.yaml --since 7d --plans plans.yaml

    Exit codes: 0 told, 1 too many users and limits for memory, 2 wrong usage or a faulty policy,
    3 the ledger can't be read.
    """
    from sentinel_extproc.endpoints.table import usual_paths
    from sentinel_extproc.limits.store import StoreError
    from sentinel_extproc.policy_cli.replaying import Known
    from sentinel_extproc.policy_cli.replaying import replay as judge
    from sentinel_extproc.policy_cli.timeline import past_of, timeline
    from sentinel_extproc.usage_cli.ledger_file import LedgerFile
    from sentinel_extproc.usage_cli.several import beside

    wanted = filter_of(since, until, user=user)
    here = configured(config_file, current_file)
    proposed = read_policy(policy_file)
    paths = usual_paths(here.settings.endpoints.prefix)
    known = Known(paths, _plans(plans_file), default_plan)
    with timeline() as past:
        with readable():
            for outbox in outboxes or beside(configured_outbox()):
                past.add(map(past_of, LedgerFile(outbox).records(wanted)))
        try:
            told = asyncio.run(judge(past, here.policy, proposed, known, top=top))
        except StoreError:
            from sentinel_extproc.terminal import give_up

            message = "There are too many users and limits at once; take less time."
            give_up(message, code="too_large", exit_code=EXIT_TOO_LARGE)
    if as_json:
        click.echo(json.dumps(told))
    else:
        _show(told)


def _plans(file: Path | None) -> dict[str, str]:
    if file is None:
        return {}
    import yaml

    try:
        if file.stat().st_size > MAX_PLANS_BYTES:
            raise click.UsageError(f"{file} is larger than {MAX_PLANS_BYTES} bytes.")
        plans = yaml.load(file.read_text("utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise click.UsageError(f"{file} can't be read: {reason}") from None
    if not isinstance(plans, dict) or not all(isinstance(plan, str) for plan in plans.values()):
        raise click.UsageError(f"{file} must be a mapping of external ids to plans.")
    return {str(user): plan for user, plan in plans.items()}


def _show(told: dict[str, Any]) -> None:
    from sentinel_extproc.terminal import console
    from sentinel_extproc.usage_cli.tables import print_facts, print_rows

    out = console()
    if not told["requests"]:
        click.echo("There are no records of that time.", err=True)
        return
    print_facts(out, _facts(told))
    limits = [_limit_cells(told, name) for name in _limit_names(told)]
    if limits:
        print_rows(out, ("limit", "current", "proposed", "users proposed"), limits)
    if told["refused_users"]:
        headings = ("user", "requests", "current", "proposed", "share", "first", "limits")
        print_rows(out, headings, map(_user_cells, told["refused_users"]))
    for note in told["notes"]:
        click.echo(f"Note: {note}")


def _facts(told: dict[str, Any]) -> Iterator[tuple[str, str | int | None]]:
    yield "from", told["first"]
    yield "to", told["last"]
    yield "requests", told["requests"]
    yield "tokens", told["tokens"]
    yield "users", told["users"]
    for name in ("current", "proposed"):
        one = told[name]
        requests = f"{one['refused_requests']:,} requests ({one['refused_requests_share']:.2%})"
        tokens = f"{one['refused_tokens']:,} tokens ({one['refused_tokens_share']:.2%})"
        yield f"refused by {name}", f"{requests}, {tokens}, {one['refused_users']:,} users"
        if one["clamped_requests"]:
            yield f"clamped by the {name} policy", one["clamped_requests"]
        for limit, count in one["shadow_exceeded"].items():
            yield f"shadow limit {limit}, {name}", f"would have refused {count:,} requests"
    yield "refused newly", told["newly_refused_requests"]
    yield "refused no longer", told["no_longer_refused_requests"]


def _limit_names(told: dict[str, Any]) -> list[str]:
    return list(
        dict.fromkeys(
            limit["name"] for policy in ("proposed", "current") for limit in told[policy]["limits"]
        )
    )


def _limit_cells(told: dict[str, Any], name: str) -> tuple[str | int | None, ...]:
    of = {
        policy: next((one for one in told[policy]["limits"] if one["name"] == name), None)
        for policy in ("current", "proposed")
    }
    current, proposed = of["current"], of["proposed"]
    return (
        name,
        0 if current is None else current["requests"],
        0 if proposed is None else proposed["requests"],
        0 if proposed is None else proposed["users"],
    )


def _user_cells(one: dict[str, Any]) -> tuple[str | int | None, ...]:
    return (
        one["user"],
        one["requests"],
        one["refused_by_current"],
        one["refused_by_proposed"],
        f"{one['share']:.1%}",
        None if one["first_refused"] is None else one["first_refused"][:19].replace("T", " "),
        ", ".join(one["limits"]) or None,
    )
