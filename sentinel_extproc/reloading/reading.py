"""Everything that can be swapped while it runs, read and checked as at the start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sentinel_extproc.config.load import ConfigError, load
from sentinel_extproc.config.policy import configured_policy
from sentinel_extproc.config.settings import Settings
from sentinel_extproc.identity.principal import Principal
from sentinel_extproc.identity.static_keys import load_static_keys
from sentinel_extproc.limits.policy import Policy
from sentinel_extproc.tokens.models import ModelTable
from sentinel_extproc.usage.prices_file import load_prices
from sentinel_extproc.usage.record import Cost, Pricer, TokenUsage, unpriced
from sentinel_extproc.yaml_file import YamlFileError


@dataclass(frozen=True, slots=True)
class Swappable:
    """What the settings mean, as far as it can change while it runs."""

    settings: Settings
    policy: Policy
    models: ModelTable
    price: Pricer
    static_keys: Mapping[str, Principal] = field(default_factory=dict)
    """Empty where ``identity.source`` is another one."""

    def files(self, config_file: Path | None) -> Iterator[Path]:
        """Files whose change means a reload."""
        named = (
            config_file,
            self.settings.limits.policy_file,
            self.settings.usage.prices_file,
            self.settings.identity.static_keys_file,
        )
        yield from (file for file in named if file is not None)


class CurrentPrice:
    """A ``Pricer`` that goes by the prices of the moment."""

    def __init__(self, price: Pricer) -> None:
        self.price = price

    def __call__(
        self, asked: str, served: str | None, usage: TokenUsage, requests: int
    ) -> Cost | None:
        return self.price(asked, served, usage, requests)


def swappable(settings: Settings) -> Swappable:
    """What these settings mean now.

    Raises:
        ValueError: a file that they name can't be used.
    """
    models = ModelTable(aliases=settings.tokens.aliases, overrides=settings.tokens.overrides)
    file = settings.usage.prices_file
    price = unpriced if file is None else load_prices(file, models.canonical)
    listed = settings.identity.static_keys_file
    keys = {} if listed is None else load_static_keys(listed)
    return Swappable(settings, configured_policy(settings.limits), models, price, keys)


def read_again(config_file: Path | None) -> Swappable:
    """Read all settings, and what they name.

    Raises:
        ConfigError: with every fault.
    """
    settings = load(config_file)
    try:
        return swappable(settings)
    except YamlFileError as error:  # a file changed since it was checked
        raise ConfigError(list(error.faults)) from None
    except (OSError, ValueError) as error:
        raise ConfigError([str(error)]) from None
