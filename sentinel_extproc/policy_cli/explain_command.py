"""``sentinel-extproc explain``."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import click

from sentinel_extproc.limits.words import number
from sentinel_extproc.policy_cli.configured import FILE, config_option, configured, providers_of

EXIT_REFUSED = 1

_BASES = {
    "cap": "the request's own cap",
    "default": "no cap: limits.default_output_tokens; a sidecar may have learned better",
}


@click.command()
@click.argument("request_file", metavar="REQUEST", type=click.File("rb"))
@click.option("--path", "target", default="/v1/chat/completions", show_default=True)
@click.option("--method", default="POST", show_default=True)
@click.option("--host", default="localhost", show_default=True, help="Where there are several.")
@click.option("--content-type", default="application/json", show_default=True)
@click.option("--user", default="somebody", show_default=True, help="External id, for policies.")
@click.option("--plan", help="The user's plan, for policies.")
@click.option("--policy", "policy_file", type=FILE, help="Instead of the configured one.")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def explain(
    request_file: BinaryIO,
    target: str,
    method: str,
    host: str,
    content_type: str,
    user: str,
    plan: str | None,
    policy_file: Path | None,
    config_file: Path | None,
    as_json: bool,
) -> None:
    """Tell what would be counted, reserved, refused and changed of a request, and why.

    REQUEST is a file with the body, or - for standard input; an empty one is a request without a
    body. Nothing is sent anywhere. Limits are taken as if the user had used nothing yet; quotas
    that Zion keeps for a user aren't known here and come on top.

    \b
    Examples:
      sentinel-extproc explain request.json --plan free --policy policy.yaml
      echo '{"model": "gpt-4o", "input": "hi"}' | sentinel-extproc explain - --path /v1/embeddings

    Exit codes: 0 it would be admitted, 1 refused, 2 wrong usage or a faulty configuration.
    """
    from sentinel_extproc.policy_cli.explaining import Gateway, Request
    from sentinel_extproc.policy_cli.explaining import explain as tell
    from sentinel_extproc.tokens.estimator import TokenEstimator

    here = configured(config_file, policy_file)
    body = request_file.read(here.settings.server.max_message_bytes + 1)
    if len(body) > here.settings.server.max_message_bytes:
        raise click.UsageError("The request is longer than server.max_message_bytes.")
    gateway = Gateway(
        choose=providers_of(here.settings),
        policy=here.policy,
        estimator=TokenEstimator(here.models),
        default_output=here.settings.limits.default_output_tokens,
        max_body_bytes=here.settings.endpoints.max_body_bytes,
    )
    request = Request(target, body or None, method.upper(), host, content_type, user, plan)
    story = asyncio.run(tell(request, gateway, now_ms=time.time_ns() // 1_000_000))
    if as_json:
        click.echo(json.dumps(story))
    else:
        _show(story)
    if not story["admitted"]:
        sys.exit(EXIT_REFUSED)


def _show(story: dict[str, Any]) -> None:
    from sentinel_extproc.terminal import console
    from sentinel_extproc.usage_cli.tables import print_facts, print_rows

    out = console()
    print_facts(out, _facts(story))
    if story.get("limits"):
        print_rows(out, _HEADINGS, map(_cells, story["limits"]))


def _facts(story: dict[str, Any]) -> Iterator[tuple[str, str | int | None]]:
    refused = story["refused"]
    if refused is None:
        yield "decision", "admitted, if the user has used nothing yet"
    else:
        yield "decision", f"refused: {refused['status']} {refused['code']}"
        yield "reason", refused["message"]
    if "endpoint" not in story:
        return
    yield "endpoint", story["endpoint"]
    yield "model", story["model"] or None
    counted, output = story["input"], story["output"]
    how = "by size or by constants" if counted["counted_by"] is None else "counted"
    yield "input", f"{counted['tokens']:,} tokens, {how}, {counted['confidence']}"
    basis = _BASES.get(output["basis"], output["basis"])
    yield "output", f"{output['tokens']:,} tokens ({basis})"
    yield "billed requests", story["billed_requests"]
    if "limits" in story and not story["limits"]:
        yield "limits", "none applies"
    if (upstream := story.get("upstream")) is not None:
        yield from _upstream_facts(upstream, output["tokens"])


def _upstream_facts(
    upstream: dict[str, Any], predicted: int
) -> Iterator[tuple[str, str | int | None]]:
    if upstream["provider"] is not None:
        yield "provider", upstream["provider"]
    if upstream["output_tokens"] < predicted:
        yield "output clamped to", f"{upstream['output_tokens']:,} tokens"
    if upstream["body"] is None:
        yield "body upstream", "as it came"
    else:
        for name, value in upstream["body"].items():
            yield "body upstream", f"{name} = {json.dumps(value)}"
    yield "headers set", ", ".join(upstream["set_headers"]) or None
    yield "headers removed", ", ".join(upstream["removed_headers"]) or None
    if upstream["hides_usage_from_client"]:
        yield "answer", "the usage that we ask for is taken out again"


_HEADINGS = ("limit", "unit", "kind", "allows", "needed", "reserved", "detail")


def _cells(limit: dict[str, Any]) -> tuple[str | int | None, ...]:
    details = [f"burst {number(limit['burst'])}"] if limit["burst"] is not None else []
    details += ["shadow: denies nothing"] if limit["shadow"] else []
    details += ["per model"] if limit["per_model"] else []
    details += [limit["formula"]] if limit["formula"] else []
    return (
        limit["name"],
        limit["unit"],
        limit["kind"],
        f"{number(limit['limit'])} {limit['per']}",
        None if limit["needed"] is None else number(limit["needed"]),
        None if limit["reserved"] is None else number(limit["reserved"]),
        "; ".join(details) or None,
    )
