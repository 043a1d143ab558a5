"""``load``: load a gateway with LLM traffic and say how it bore it."""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import click

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3
EXIT_INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class DemoGateway:
    """A gateway to try this on.

    Attributes:
        users: who it knows, as a scenario says it.
        headers: that its provider goes by; beside those of each kind of request.
    """

    target: str
    users: Mapping[str, Any]
    headers: Mapping[str, str]


Demo = Callable[[], AbstractContextManager[DemoGateway]]
"""Starts one, and stops it at the end."""


def load_command(demo: Demo) -> click.Command:
    """The command.

    Args:
        demo: for ``--demo``.
    """

    @click.command()
    @click.argument(
        "scenario", type=click.Path(path_type=Path, dir_okay=False, exists=True), required=False
    )
    @click.option("--url", help="The gateway's address, instead of the scenario's.")
    @click.option("--users", type=int, help="Closed model: so many at once.")
    @click.option("--rate", type=float, help="Open model: so many requests per second.")
    @click.option("--duration", help="How long, such as 30s or 5m.")
    @click.option("--ramp", help="Until all users are there or the rate is reached.")
    @click.option("--max-requests", type=int, help="End after so many.")
    @click.option("--max-concurrency", type=int, help="Never more at once.")
    @click.option(
        "--tokens-file",
        type=click.Path(path_type=Path, dir_okay=False, exists=True),
        help="A token per line, instead of the scenario's users.",
    )
    @click.option("--seed", type=int, help="Of everything that is drawn.")
    @click.option("--fail-if", multiple=True, metavar="CONDITION", help="Such as p99_ttft>500ms.")
    @click.option(
        "--json", "json_file", type=click.Path(), help="Write the report there; - prints."
    )
    @click.option(
        "--html", "html_file", type=click.Path(dir_okay=False), help="Write a page there."
    )
    @click.option("--ca-file", type=click.Path(dir_okay=False, exists=True), help="For https.")
    @click.option("--allow-remote", is_flag=True, help="The target may be another machine.")
    @click.option("--demo", "with_demo", is_flag=True, help="Start a gateway here to load.")
    def load(**options: Any) -> None:
        """Load a gateway with LLM traffic, and show how it bore it.

        SCENARIO is a YAML file: who sends what, how often (docs/load-testing.md). Without one,
        streamed and plain chats and embeddings are sent. Only this machine is loaded unless
        --allow-remote says otherwise. Ctrl-C ends it with the report of what was measured so far.

        \b
        Examples:
          sentinel-extproc load --demo --html report.html
          sentinel-extproc load mix.yaml --rate 50 --duration 2m --fail-if 'p99_ttft>500ms'
          sentinel-extproc load --url http://127.0.0.1:8080 --tokens-file tokens.txt --users 20

        Exit codes: 0 done and no condition failed, 1 a condition failed or it can't begin, 2 wrong
        usage, 3 nobody answered at all, 130 ended by Ctrl-C.
        """
        sys.exit(_run(options, demo))

    return load


def _run(options: dict[str, Any], demo: Demo) -> int:
    try:
        import aiohttp  # noqa: F401 - to say early what is missing
    except ImportError as error:
        lack = f"Load tests need more packages ({error.name} is missing)"
        _refuse(
            [f"{lack}: pip install '.[load]' in a checkout"],
            EXIT_FAILED,
        )
    if options["users"] is not None and options["rate"] is not None:
        _refuse(["--users is of the closed model and --rate of the open one: give one of them"])
    if options["with_demo"] and options["url"]:
        _refuse(["--demo brings its own gateway: leave --url out"])
    with demo() if options["with_demo"] else nullcontext() as gateway:
        return _measure(options, gateway)


def _measure(options: dict[str, Any], gateway: DemoGateway | None) -> int:
    import uvloop
    from rich.console import Console

    from . import thresholds
    from .page import page
    from .running import run_scenario
    from .scenario import USUAL, ScenarioError, read_scenario, tokens
    from .target import NotAllowed, check_target
    from .terminal import show

    file: Path | None = options["scenario"]
    try:
        scenario = read_scenario(file or USUAL, partial(_change, options, gateway))
        beside = None if options["tokens_file"] or file is None else file.parent
        known = tokens(scenario.users, beside=beside)
        check_target(scenario.target, allow_remote=options["allow_remote"])
        kinds = tuple(kind.name for kind in scenario.mix)
        conditions = [thresholds.parse(text, kinds) for text in options["fail_if"]]
        trusted = ssl.create_default_context(cafile=options["ca_file"])
        for name in ("json_file", "html_file"):
            _check_writable(options[name])
    except ScenarioError as error:
        _refuse(error.faults)
    except (NotAllowed, ValueError, OSError) as error:
        _refuse([str(error)])
    console = Console(stderr=options["json_file"] == "-")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        report = runner.run(run_scenario(scenario, known, console=console, trusted=trusted))
    verdicts = [one.judge(report) for one in conditions]
    show(console, report, verdicts)
    if options["json_file"]:
        told = report.plain() | {
            "conditions": [
                {"condition": v.text, "failed": v.failed, "measured": v.seen} for v in verdicts
            ]
        }
        _write(options["json_file"], json.dumps(told).encode())
    if options["html_file"]:
        _write(options["html_file"], page(report, verdicts))
    if report.ended_by == "interrupted":
        return EXIT_INTERRUPTED
    if report.all.requests and not report.all.statuses:
        return EXIT_UNREACHABLE
    return EXIT_FAILED if any(one.failed for one in verdicts) else 0


def _change(
    options: Mapping[str, Any], gateway: DemoGateway | None, document: dict[str, Any]
) -> None:
    load = document.setdefault("load", {})
    for model, name in (("closed", "users"), ("open", "rate")):
        if options[name] is not None:
            load["model"], load[name] = model, options[name]
    for name in ("duration", "ramp", "max_requests", "max_concurrency"):
        if options[name] is not None:
            load[name] = options[name]
    if options["url"]:
        document["target"] = options["url"]
    if options["tokens_file"]:
        document["users"] = {"tokens_file": str(options["tokens_file"])}
    if options["seed"] is not None:
        document["seed"] = options["seed"]
    if gateway is not None:
        document["target"], document["users"] = gateway.target, dict(gateway.users)
        for kind in document["mix"]:
            kind["headers"] = dict(gateway.headers) | kind.get("headers", {})


def _check_writable(name: str | None) -> None:
    """Better now than after an hour of load."""
    if name and name != "-":
        Path(name).touch()


def _write(name: str, content: bytes) -> None:
    if name == "-":
        click.echo(content)
    else:
        Path(name).write_bytes(content)


def _refuse(faults: Any, code: int = EXIT_USAGE) -> NoReturn:
    for fault in faults:
        click.echo(f"sentinel-extproc load: {fault}", err=True)
    sys.exit(code)
