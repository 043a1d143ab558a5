"""Settings of who callers are: the user service, and other sources of identity."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from pydantic import Field

from sentinel_extproc.config.sections import Section
from sentinel_extproc.config.values import HttpUrl, Seconds, Secret


class Dialect(StrEnum):
    """Which of Zion's two wire contracts is spoken."""

    UNIFIED = "unified"
    PER_METRIC = "per_metric"


class ZionSettings(Section):
    """The user service."""

    url: HttpUrl
    """Base URL. Also read from `ZION_API_URL`."""
    api_key: Secret
    """For limits and usage. Also read from `ZION_API_KEY`."""
    dialect: Dialect = Dialect.UNIFIED
    """`per_metric` for an older Zion."""
    deadline_seconds: Seconds = 1.5
    """For one look-up, all of it; below `server.decision_timeout_seconds`."""
    report_deadline_seconds: Seconds = 10.0
    """For one batch of usage."""
    ca_file: Path | None = None
    """PEM bundle that replaces the shipped roots."""
    client_cert_file: Path | None = None
    """PEM certificate for mutual TLS."""
    client_key_file: Path | None = None
    """Its key."""


class IdentitySourceName(StrEnum):
    """Who says whom a credential belongs to."""

    ZION = "zion"
    JWT = "jwt"
    ENVOY_JWT = "envoy_jwt"
    STATIC = "static"


class IdentitySettings(Section):
    """Who says whom a credential belongs to, and how long that is believed."""

    source: IdentitySourceName = IdentitySourceName.ZION
    """`zion` asks the user service; `jwt` checks JWTs here; `envoy_jwt` takes what the filter
    jwt_authn of Envoy has verified; `static` reads keys from a file, for development."""
    jwt_issuer: str = ""
    """What `iss` must be; needed for `jwt`."""
    jwt_audience: str = ""
    """What `aud` must contain; needed for `jwt`."""
    jwks_url: HttpUrl | None = None
    """Where the issuer publishes its keys; needed for `jwt`."""
    jwks_ca_file: Path | None = None
    """PEM bundle for that address; replaces the shipped roots."""
    jwt_metadata_name: str = Field("jwt_payload", min_length=1, max_length=256)
    """For `envoy_jwt`: the filter's `payload_in_metadata`."""
    jwt_external_id_claim: str = Field("sub", min_length=1, max_length=256)
    """The claim that limits and billing go by."""
    jwt_email_claim: str = Field("email", min_length=1, max_length=256)
    """The claim with the address."""
    jwt_plan_claim: str | None = None
    """The claim with the plan, for policies that go by it."""
    static_keys_file: Path | None = None
    """For `static`: YAML list of `sha256`, `external_id`, `email`, `user_id`, `plan`."""
    fresh_seconds: float = Field(60.0, ge=1, le=3600)
    """Opaque tokens; jittered down to half. Also `CACHE_TTL_SECONDS`."""
    jwt_fresh_seconds: float = Field(60.0, ge=1, le=3600)
    """Tokens that look like a JWT. Also `JWT_CACHE_TTL_SECONDS`."""
    stale_seconds: float = Field(300.0, ge=0, le=3600)
    """Used, while it is checked again, up to this age."""
    stale_on_error_seconds: float = Field(1800.0, ge=0, le=86_400)
    """Used when the user service fails, up to this age; never past the token's `exp`."""
    max_entries: int = Field(10_000, ge=1, le=10_000_000)
    """Tokens remembered per process."""
    revoked_token_seconds: float = Field(86_400.0, ge=60, le=2_678_400)
    """How long a token that an operator revoked is refused, whatever the source says of it."""
