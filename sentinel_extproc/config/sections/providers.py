"""Settings of the LLM providers behind Envoy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from sentinel_extproc.config.sections import Section
from sentinel_extproc.config.values import HttpUrl, PathPrefix, Secret
from sentinel_extproc.exchange.providers import Kind

_HOST = r"^[a-z0-9_.-]+(?::\d{1,5})?$|^\[[0-9a-f:.]+\](?::\d{1,5})?$"

UNSET = "unset"
"""In place of a secret that isn't needed."""


class ProviderSettings(Section):
    """The LLM provider behind Envoy; with `providers`, the one for all that isn't for those."""

    api_key_file: Path | None = None
    """File with the key, instead of `api_key`; a changed file is in use within two seconds. One key
    a line; several are used in turn."""
    api_key: Secret | None = None
    """Replaces the user's token; needed, or `api_key_file`. Also read from `OPENAI_API_KEY`."""
    url: HttpUrl = "https://api.openai.com"
    """Where Envoy sends requests; used when configuration is rendered. Also `OPENAI_API_URL`."""
    tell_identity: bool = False
    """Send `x-sentinel-user`, `-email` and `-exchange-id` to the provider."""

    @field_validator("api_key")
    @classmethod
    def _one_key(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        file = info.data.get("api_key_file")
        if value is None and file is None:
            raise PydanticCustomError("missing", "Field required")
        if value is not None and value.get_secret_value() != UNSET and file is not None:
            raise ValueError("not both of api_key and api_key_file")
        return value

    @property
    def usable(self) -> bool:
        """Whether there is a key, so that requests can go there."""
        if self.api_key_file is not None:
            return True
        return self.api_key is not None and self.api_key.get_secret_value() != UNSET


class ProviderEntry(Section):
    """One of several providers: a list, in the file, or in the environment a JSON array in
    `SENTINEL_PROVIDERS`. See [providers.md](providers.md)."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    """What logs, metrics and Envoy's routes call it."""
    kind: Kind = Kind.OPENAI
    """How its paths and its key look."""
    url: HttpUrl
    """Where Envoy sends its requests; a path in it takes the place of `path_prefix`."""
    path_prefix: PathPrefix = "/"
    """What clients put in front of the provider's own paths."""
    hosts: tuple[Annotated[str, Field(pattern=_HOST)], ...] = ()
    """Values of `:authority` that are for it; none: every host that no provider lists."""
    api_prefix: PathPrefix | None = None
    """Where its paths begin behind `path_prefix`; as its kind's do: `/v1/`, Azure's `/openai/`."""
    models: tuple[Annotated[str, Field(min_length=1, max_length=256)], ...] = ()
    """Globs; a request for another model gets 404."""
    api_key: Secret | None = None
    """Replaces the user's token; needed, or `api_key_file`, but not for `compatible`."""
    api_key_file: Path | None = None
    """File with the key, as `provider.api_key_file`."""
    key_header: str | None = Field(None, pattern=r"^[a-z0-9-]{1,64}$")
    """Header for the key instead of its kind's own."""
    tell_identity: bool = False
    """As `provider.tell_identity`."""
