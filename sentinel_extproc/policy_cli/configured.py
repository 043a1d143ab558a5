"""What the options and the configuration mean, for commands that need no running sidecar."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
from pydantic import SecretStr

from sentinel_extproc.config.sections.providers import ProviderEntry, ProviderSettings
from sentinel_extproc.config.settings import Settings
from sentinel_extproc.exchange.providers import Choose
from sentinel_extproc.limits.policy import Policy
from sentinel_extproc.tokens.models import ModelTable

EXIT_CONFIG = 2

_Command = TypeVar("_Command", bound=Callable[..., Any])
FILE = click.Path(path_type=Path, dir_okay=False)


@dataclass(frozen=True, slots=True)
class Configured:
    """What is configured here; ``policy`` is the policy file's, or one limit of requests."""

    settings: Settings
    policy: Policy
    models: ModelTable


def config_option(command: _Command) -> _Command:
    """Decorator: ``config_file``."""
    return click.option(
        "--config",
        "config_file",
        type=FILE,
        help="YAML file with settings; SENTINEL_CONFIG may name it too.",
    )(command)


def configured(config_file: Path | None, policy_file: Path | None = None) -> Configured:
    """Read the configuration; ends the process, with every fault, when it can't be used.

    Args:
        policy_file: instead of the configured policy.
    """
    from sentinel_extproc.config.load import ConfigError, load
    from sentinel_extproc.config.policy import configured_policy
    from sentinel_extproc.limits.policy_file import PolicyFileError
    from sentinel_extproc.tokens.models import ModelTableError

    try:
        settings = load(config_file, to_serve=False)
        models = ModelTable(aliases=settings.tokens.aliases, overrides=settings.tokens.overrides)
    except ConfigError as error:
        _refuse("The configuration", error.faults)
    except ModelTableError as error:
        _refuse("The configuration", (f"tokens.{fault}" for fault in error.faults))
    if policy_file is not None:
        return Configured(settings, read_policy(policy_file), models)
    try:
        return Configured(settings, configured_policy(settings.limits), models)
    except PolicyFileError as error:
        _refuse("The configured policy", error.faults)


def read_policy(file: Path) -> Policy:
    """The policy of a file; ends the process, with every fault, when it can't be used."""
    from sentinel_extproc.limits.policy_file import PolicyFileError, load_policy

    try:
        return load_policy(file)
    except PolicyFileError as error:
        _refuse(f"The policy {file}", error.faults)


def _refuse(what: str, faults: Iterable[str]) -> NoReturn:
    from sentinel_extproc.terminal import give_up

    message = "\n  ".join([f"{what} can't be used:", *faults])
    give_up(message, code="faulty_configuration", exit_code=EXIT_CONFIG)


def providers_of(settings: Settings) -> Choose:
    """How providers are chosen, made without reading a key."""
    from sentinel_extproc.provider_parts import provider_parts

    simple = settings.provider
    if simple.usable or not settings.providers:
        simple = _keyless(simple)
    entries = [_keyless(entry) for entry in settings.providers]
    return provider_parts(settings.model_copy(update={"provider": simple, "providers": entries}))[0]


_Provider = TypeVar("_Provider", ProviderEntry, ProviderSettings)


def _keyless(provider: _Provider) -> _Provider:
    no_key = SecretStr("of-the-provider")
    return provider.model_copy(update={"api_key": no_key, "api_key_file": None})
