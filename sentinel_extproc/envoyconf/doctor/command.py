"""``doctor``: the command line.

Exit codes: 0 nothing that fails; 1 errors were found (with --strict, warnings too); 2 wrong usage,
or the file can't be read; 3 the running Envoy can't be reached.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from sentinel_extproc.envoyconf.versions import parse_version

_TELLING = (
    *(f"SENTINEL_{section}__" for section in ("SERVER", "ENDPOINTS", "PROVIDER", "OVERLOAD")),
    *("SENTINEL_PROVIDERS", "SENTINEL_IDENTITY__SOURCE", "OPENAI_API_URL"),
)
"""Settings that an Envoy must fit: others around, such as an admin token, don't mean a sidecar."""

EXIT_FOUND = 1
EXIT_UNREADABLE = 2
EXIT_UNREACHABLE = 3

if TYPE_CHECKING:
    from sentinel_extproc.envoyconf.doctor.meant import Meant


def _version(_context: object, _parameter: object, value: str | None) -> tuple[int, int] | None:
    if value is None:
        return None
    try:
        return parse_version(value, parameter="--envoy-version")
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command()
@click.option(
    "--envoy-config",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Envoy's bootstrap (YAML or JSON), or a saved /config_dump.",
)
@click.option(
    "--admin",
    "address",
    metavar="URL",
    help="Admin interface of a running Envoy: http://host:port or unix:/path. Its counters are "
    "looked at too.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.option("--strict", is_flag=True, help="Exit code 1 for warnings too.")
@click.option(
    "--ignore",
    "ignore",
    metavar="ID[@PLACE]",
    multiple=True,
    help="Leave out a finding; with PLACE only where that text is part of its place. Repeatable.",
)
@click.option("--processor", default="", help="The sidecar's cluster, if it can't be found.")
@click.option(
    "--provider",
    "providers",
    multiple=True,
    help="A cluster that must not be reached without the sidecar, beside those found. Repeatable.",
)
@click.option(
    "--max-body",
    "body_bytes",
    type=click.IntRange(1, 1 << 31),
    default=4 << 20,
    show_default=True,
    help="Largest request body in bytes that clients send.",
)
@click.option(
    "--envoy-version",
    "version",
    callback=_version,
    metavar="X.Y",
    help="Of the Envoy that reads the file; a running one tells. Default: a current one.",
)
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The sidecar's YAML file with settings, to compare Envoy with; SENTINEL_CONFIG may name "
    "it too. Without one, settings of the environment are taken, if there are any.",
)
@click.option(
    "--without-settings",
    is_flag=True,
    help="Compare with no settings, whatever the environment has.",
)
def doctor(
    file: Path | None,
    address: str | None,
    as_json: bool,
    strict: bool,
    ignore: tuple[str, ...],
    processor: str,
    providers: tuple[str, ...],
    body_bytes: int,
    version: tuple[int, int] | None,
    config_file: Path | None,
    without_settings: bool,
) -> None:
    """Tell what is wrong with an Envoy that the sidecar is attached to, and how to mend it.

    \b
    Examples:
      sentinel-extproc doctor --envoy-config envoy.yaml --config sentinel.yaml
      sentinel-extproc doctor --admin http://127.0.0.1:9901 --strict --json

    Exit codes: 0 no errors; 1 errors (with --strict, warnings too); 2 wrong usage, or the file
    can't be read; 3 Envoy can't be reached. All findings: docs/attach/doctor.md.
    """
    from sentinel_extproc.envoyconf.doctor import report
    from sentinel_extproc.envoyconf.doctor.admin import Unreachable, load_admin
    from sentinel_extproc.envoyconf.doctor.attachment import Expectations, expected_by
    from sentinel_extproc.envoyconf.doctor.diagnose import RULES, diagnose
    from sentinel_extproc.envoyconf.doctor.load import load_file
    from sentinel_extproc.envoyconf.doctor.reading import Unreadable
    from sentinel_extproc.envoyconf.doctor.rules import Ignored, Severity

    if (file is None) == (address is None):
        raise click.UsageError("Say either --envoy-config FILE or --admin URL.")
    ignored = [Ignored(*entry.split("@", 1)) for entry in ignore]
    for entry in ignored:
        if entry.id not in RULES:
            raise click.UsageError(f"--ignore: there is no finding {entry.id!r}")
    if without_settings and config_file is not None:
        raise click.UsageError("--config and --without-settings: one or the other.")
    expected = Expectations(
        processor=processor, providers=frozenset(providers), body_bytes=body_bytes
    )
    meant, compared = None if without_settings else _settings(config_file, as_json), ""
    if meant is not None:
        expected, compared = expected_by(meant[0], expected), meant[1]
    try:
        snapshot = load_admin(address) if address is not None else load_file(Path(str(file)))
        if version is not None:
            snapshot = replace(snapshot, version=version)
        findings = diagnose(snapshot, expected, ignored)
    except Unreadable as error:
        _fail(f"{file or address} can't be read: {error}", "unreadable", EXIT_UNREADABLE, as_json)
    except Unreachable as error:
        _fail(f"Envoy can't be reached: {error}", "unreachable", EXIT_UNREACHABLE, as_json)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if as_json:
        click.echo(json.dumps(report.as_json(findings, settings=compared), indent=2))
    else:
        click.echo(report.as_text(findings, settings=compared))
    failing = {Severity.ERROR, Severity.WARNING} if strict else {Severity.ERROR}
    sys.exit(EXIT_FOUND if any(f.rule.severity in failing for f in findings) else 0)


def _settings(file: Path | None, as_json: bool) -> tuple[Meant, str] | None:
    """What the sidecar is set to, and where that is from; None when nothing says so."""
    from sentinel_extproc.config.load import ConfigError, load, named_file
    from sentinel_extproc.envoyconf.doctor.meant import meant_by

    named = named_file(file)
    around = sorted(name for name in os.environ if name.startswith(_TELLING))
    if named is None and not around:
        return None
    try:
        settings = load(named, to_serve=False)
    except ConfigError as error:
        message = "The sidecar's settings can't be used:\n" + "\n".join(error.faults)
        _fail(message, "faulty_settings", EXIT_UNREADABLE, as_json)
    sources = [*([] if named is None else [str(named)]), *(["the environment"] if around else [])]
    return meant_by(settings), " and ".join(sources)


def _fail(message: str, code: str, exit_code: int, as_json: bool) -> NoReturn:
    if as_json:
        click.echo(json.dumps({"error": {"message": message, "code": code}}))
    else:
        click.echo(message, err=True)
    sys.exit(exit_code)
