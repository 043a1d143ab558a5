"""The ``sentinel-extproc`` command."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from sentinel_extproc import __version__
from sentinel_extproc.lazy_commands import Lazy, LazyCommands

if TYPE_CHECKING:
    from sentinel_extproc.loadtest.command import DemoGateway

EXIT_CONFIG = 2
EXIT_START = 1


def _gateway_to_load() -> AbstractContextManager[DemoGateway]:
    try:
        from sentinel_extproc.demo.load_gateway import load_gateway
    except ImportError as error:
        _lack_demo(error)
    return load_gateway()


def _lack_demo(error: ImportError) -> NoReturn:
    click.echo(
        f"The demo needs more packages ({error.name} is missing): "
        "pip install '.[demo]' in a checkout",
        err=True,
    )
    sys.exit(EXIT_START)


def _load() -> click.Command:
    from sentinel_extproc.loadtest.command import load_command

    return load_command(_gateway_to_load)


_LAZY: dict[str, Lazy] = {
    "doctor": "sentinel_extproc.envoyconf.doctor.command:doctor",
    "explain": "sentinel_extproc.policy_cli.explain_command:explain",
    "invalidate": "sentinel_extproc.admin.commands:invalidate",
    "limits": "sentinel_extproc.live_cli.look_commands:limits",
    "load": _load,
    "policy": "sentinel_extproc.policy_cli.group:policy",
    "render": "sentinel_extproc.envoyconf.command:render",
    "revoke": "sentinel_extproc.admin.commands:revoke",
    "shadow": "sentinel_extproc.shadow.command:shadow",
    "status": "sentinel_extproc.admin.commands:status",
    "top": "sentinel_extproc.live_cli.top_command:top",
    "usage": "sentinel_extproc.usage_cli.group:usage",
    "whoami": "sentinel_extproc.live_cli.look_commands:whoami",
}

_config_option = click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="YAML file with settings; SENTINEL_CONFIG may name it too.",
)


@click.group(
    cls=LazyCommands,
    lazy=_LAZY,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="sentinel-extproc")
def main() -> None:
    """Govern LLM traffic behind Envoy: authentication, limits, token accounting, billing."""


@main.command()
@_config_option
@click.option("--json", "as_json", is_flag=True, help="Say why it can't start as JSON, on stdout.")
def serve(config_file: Path | None, as_json: bool) -> None:
    """Serve Envoy's external processing protocol until SIGTERM.

    On SIGHUP, and when one of their files changes, settings are read again: the policy, prices and
    constants of counting are swapped at once, or all refused with the reason in the log, the
    metrics and `status`. Other settings hold from the next start on.

    With several workers (server.workers) SIGHUP reaches all of them, and SIGUSR2 replaces them one
    after the other under settings read anew, without an end to any exchange.

    Settings come from the environment (SENTINEL_<SECTION>__<NAME>) and a YAML file; see
    check-config. How it starts and what it does is in its log, on stderr: JSON lines, or text for
    people with SENTINEL_LOGS__FORMAT=console.

    \b
    Examples:
      sentinel-extproc serve --config /etc/sentinel/config.yaml
      SENTINEL_SERVER__LISTEN=unix:/tmp/sentinel.sock sentinel-extproc serve

    Exit codes: 0 ended as told, 1 it can't start, 2 the configuration is faulty.
    """
    import uvloop

    from sentinel_extproc.memory import without

    # httpx for a command of its own, and structlog for tracebacks in colours: 5 MiB.
    with without("rich", "pygments"):
        from sentinel_extproc import app
    from sentinel_extproc.config.load import ConfigError, load, named_file
    from sentinel_extproc.config.workers import worker_count
    from sentinel_extproc.start_error import StartError
    from sentinel_extproc.telemetry import logs
    from sentinel_extproc.transport.server import ServerError
    from sentinel_extproc.usage.outbox import OutboxError

    file = named_file(config_file)
    try:
        settings = load(file)
    except ConfigError as error:
        _refuse(error.faults, as_json=as_json)
    logs.configure(level=settings.logs.level, json_lines=settings.logs.format == "json")
    workers = worker_count(settings.server.workers)
    try:
        if workers > 1:
            from sentinel_extproc.workers.run import run_workers

            sys.exit(run_workers(settings, file, workers))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(app.serve(settings, file))
    except (StartError, ServerError, OutboxError, ValueError) as error:
        if as_json:
            click.echo(json.dumps({"error": {"code": "cant_start", "message": str(error)}}))
        else:
            click.echo(f"sentinel-extproc can't start: {error}", err=True)
        sys.exit(EXIT_START)


@main.command("check-config")
@_config_option
@click.option("--json", "as_json", is_flag=True, help="Print the settings, or the faults, as JSON.")
def check_config(config_file: Path | None, as_json: bool) -> None:
    """Check all settings and print them, secrets masked; faults are listed all at once.

    Policies, price lists and static keys that they name are checked, too.

    \b
    Examples:
      sentinel-extproc check-config --config config.yaml
      sentinel-extproc check-config --json | jq .limits

    Exit codes: 0 it can be used, 2 it has faults.
    """
    import yaml

    from sentinel_extproc.config.load import ConfigError, load

    try:
        settings = load(config_file)
    except ConfigError as error:
        _refuse(error.faults, as_json=as_json)
    shown = settings.public()
    click.echo(json.dumps(shown, indent=2) if as_json else yaml.safe_dump(shown, sort_keys=False))


@main.command()
@click.option("--once", is_flag=True, help="End after the scenario; exit 0 only if all held.")
@click.option("--port", default=8080, show_default=True, help="Port of the gateway; 0 picks one.")
@click.option(
    "--traffic",
    is_flag=True,
    help="While it stays up: sample calls by made-up users, for the live page; an hour at most.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="With --once: print the result as JSON; the rest on stderr.",
)
def demo(once: bool, port: int, traffic: bool, as_json: bool) -> None:
    """Run the whole thing here: real Envoy and Redis, stand-ins for OpenAI and Zion, a scenario.

    \b
    Examples:
      sentinel-extproc demo
      sentinel-extproc demo --traffic
      sentinel-extproc demo --once --json

    Exit codes: 0 all held, 1 something didn't or can't start, 2 wrong usage.
    """
    if as_json and not once:
        raise click.UsageError("--json goes with --once.")
    if traffic and once:
        raise click.UsageError("--traffic is for when it stays up, without --once.")
    try:
        from sentinel_extproc.demo.main import run_demo
    except ImportError as error:
        _lack_demo(error)
    if not as_json:
        sys.exit(run_demo(once=once, port=port, traffic=traffic))
    from rich.console import Console

    code = run_demo(once=once, port=port, console=Console(stderr=True))
    click.echo(json.dumps({"held": code == 0, "exit_code": code}))
    sys.exit(code)


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.option("--json", "as_json", is_flag=True, help="Print it as a field of JSON.")
def completion(shell: str, as_json: bool) -> None:
    """Print what makes a shell complete these commands and their options.

    \b
    Examples:
      sentinel-extproc completion bash >> ~/.bashrc
      sentinel-extproc completion zsh >> ~/.zshrc
      sentinel-extproc completion fish > ~/.config/fish/completions/sentinel-extproc.fish

    Exit codes: 0 printed, 2 wrong usage.
    """
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made is not None  # noqa: S101 - click has all three
    shown = made(main, {}, "sentinel-extproc", "_SENTINEL_EXTPROC_COMPLETE")
    # Not source(): for bash that would run one, to look at its version.
    script = shown.source_template % shown.source_vars()
    click.echo(json.dumps({"shell": shell, "script": script}) if as_json else script)


def _refuse(faults: list[str], *, as_json: bool) -> NoReturn:
    if as_json:
        click.echo(json.dumps({"error": {"code": "faulty_configuration", "faults": faults}}))
        sys.exit(EXIT_CONFIG)
    count = "a fault" if len(faults) == 1 else f"{len(faults)} faults"
    click.echo(f"The configuration has {count}:", err=True)
    for fault in faults:
        click.echo(f"  {fault}", err=True)
    sys.exit(EXIT_CONFIG)
