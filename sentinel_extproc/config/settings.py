"""Every setting, by section: frozen and range-checked. The docstring under a field is its manual.

Sections are handed to parts value by value; nothing but the composition root sees a whole one.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from sentinel_extproc.config.sections.identity import IdentitySettings, ZionSettings
from sentinel_extproc.config.sections.limits import LimitSettings, RedisSettings, TokenSettings
from sentinel_extproc.config.sections.operating import AdminSettings, LogSettings, TracingSettings
from sentinel_extproc.config.sections.providers import ProviderEntry, ProviderSettings
from sentinel_extproc.config.sections.serving import (
    EndpointSettings,
    OverloadSettings,
    ServerSettings,
    ShadowSettings,
)
from sentinel_extproc.config.sections.usage import UsageSettings


class Settings(BaseSettings):
    """All of it. Made by ``config.load``, which adds the file and the predecessor's names."""

    model_config = SettingsConfigDict(
        env_prefix="SENTINEL_",
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        validate_default=True,
    )

    server: ServerSettings = ServerSettings()
    overload: OverloadSettings = OverloadSettings()
    provider: ProviderSettings
    providers: tuple[ProviderEntry, ...] = Field((), max_length=64)
    zion: ZionSettings
    redis: RedisSettings = RedisSettings()
    identity: IdentitySettings = IdentitySettings()
    limits: LimitSettings = LimitSettings()
    endpoints: EndpointSettings = EndpointSettings()
    usage: UsageSettings = UsageSettings()
    tokens: TokenSettings = TokenSettings()
    admin: AdminSettings = AdminSettings()
    shadow: ShadowSettings = ShadowSettings()
    tracing: TracingSettings = TracingSettings()
    logs: LogSettings = LogSettings()

    def public(self) -> dict[str, Any]:
        """As JSON values, with every secret masked."""
        return self.model_dump(mode="json")
