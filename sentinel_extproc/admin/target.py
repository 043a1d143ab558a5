"""Which admin port the command line calls: its options, and calls that end the process on failure.

A port with too many calls says when to come again: that is waited for, up to a minute.

Exit codes: 1 refused; 2 wrong usage; 3 nobody answered, so it isn't known whether it was done.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

if TYPE_CHECKING:
    from sentinel_extproc.config.sections.operating import AdminSettings

EXIT_REFUSED = 1
EXIT_UNREACHABLE = 3

LONGEST_WAIT_S = 60
TOO_MANY = 429
UNAUTHENTICATED = 401
_HOW_TO_LOG_IN = (
    " Here: --token-file FILE, or the sidecar's own settings by --config or SENTINEL_CONFIG."
)

_Command = TypeVar("_Command", bound=Callable[..., Any])
_Answer = TypeVar("_Answer")
_FILE = click.Path(path_type=Path, dir_okay=False)


@dataclass(frozen=True, slots=True)
class Target:
    """Where to call, and how to show what it said."""

    address: str
    token: str | None
    tls: tuple[Path | None, Path | None, Path | None]
    as_json: bool

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The answer; ends the process when there is none."""
        from sentinel_extproc.admin import client

        return self._answer(
            lambda: client.call(
                method,
                path,
                body,
                address=self.address,
                token=self.token,
                tls=client.TlsOptions(*self.tls),
            )
        )

    def metrics(self) -> str:
        """The metrics' text; ends the process when there is none."""
        from sentinel_extproc.admin import client

        tls = client.TlsOptions(*self.tls)
        return self._answer(lambda: client.metrics(address=self.address, token=self.token, tls=tls))

    def _answer(self, ask: Callable[[], _Answer]) -> _Answer:
        from sentinel_extproc.admin import client

        waited_s = 0
        while True:
            try:
                return ask()
            except client.AdminRefused as error:
                # A 429 changed nothing, so it may be repeated.
                again_s = error.retry_after_s if error.status == TOO_MANY else None
                if again_s is None or waited_s + again_s > LONGEST_WAIT_S:
                    hint = _HOW_TO_LOG_IN if error.status == UNAUTHENTICATED else ""
                    self.fail(f"{error}{hint}", error.code, EXIT_REFUSED)
                click.echo(f"{error} Waiting for it.", err=True)
                time.sleep(again_s)
                waited_s += again_s
            except client.AdminUnreachable as error:
                message = f"The admin port can't be reached: {error}"
                self.fail(message, "unreachable", EXIT_UNREACHABLE)
            except ValueError as error:
                raise click.UsageError(str(error)) from None

    def fail(self, message: str, code: str, exit_code: int) -> NoReturn:
        """Say why, and end the process."""
        if self.as_json:
            click.echo(json.dumps({"error": {"message": message, "code": code}}))
        else:
            click.echo(message, err=True)
        sys.exit(exit_code)


def admin_options(command: _Command) -> _Command:
    """Decorator: the options whose values ``admin_target`` takes."""
    for option in reversed(
        (
            click.option(
                "--admin",
                "address",
                metavar="URL",
                help="The admin port: http://host:port, https://host:port or unix:/path. "
                "Default: where the configuration says (admin.listen), else 127.0.0.1:9180.",
            ),
            click.option(
                "--token-file",
                type=_FILE,
                help="File with the admin token; else as configured (admin.token, "
                "admin.token_file). A Unix socket needs none unless one is configured.",
            ),
            click.option(
                "--config",
                "config_file",
                type=_FILE,
                is_eager=True,  # so that defaults of others can go by it
                help="The sidecar's YAML file with settings; SENTINEL_CONFIG may name it too. Only "
                "its admin section is read.",
            ),
            click.option("--ca-file", type=_FILE, help="For https: authorities to trust (PEM)."),
            click.option("--cert-file", type=_FILE, help="For https: our certificate (PEM)."),
            click.option("--key-file", type=_FILE, help="Its key."),
            click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON."),
        )
    ):
        command = option(command)
    return command


def admin_target(
    address: str | None,
    token_file: Path | None,
    config_file: Path | None,
    ca_file: Path | None,
    cert_file: Path | None,
    key_file: Path | None,
    as_json: bool,
) -> Target:
    """What the options say, and the sidecar's own configuration where they say nothing.

    Raises:
        click.UsageError: the configuration or the token can't be used.
    """
    from sentinel_extproc.config.load import ConfigError, load_section
    from sentinel_extproc.config.sections.operating import AdminSettings

    try:
        admin = load_section("admin", AdminSettings, config_file)
    except ConfigError as error:
        raise click.UsageError("\n".join(error.faults)) from None
    if address is None:
        address = _address(admin)
    return Target(address, _token(admin, token_file), (ca_file, cert_file, key_file), as_json)


def _address(admin: AdminSettings) -> str:
    from sentinel_extproc.admin.client import address_of

    if not admin.enabled:
        raise click.UsageError("The configuration has no admin port (admin.enabled: false).")
    return address_of(admin.listen, tls=admin.tls_cert_file is not None)


def _token(admin: AdminSettings, file: Path | None) -> str | None:
    if file is None and admin.token is not None:
        return _checked(admin.token.get_secret_value(), "admin.token")
    file = file or admin.token_file
    if file is None:
        return None
    try:
        return _checked(file.read_text("utf-8").strip(), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"The admin token can't be read: {error}") from None


def _checked(token: str, where: str) -> str:
    if not token or any(not "!" <= char <= "~" for char in token):
        raise click.UsageError(f"{where} must have one token of visible ASCII in it.")
    return token
