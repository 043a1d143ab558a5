"""Settings of limits, of their store, and of the counting that they need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from sentinel_extproc.config.sections import Section
from sentinel_extproc.config.values import RedisUrl, Seconds
from sentinel_extproc.limits.limit import OnExhausted, OnOutage


class RedisSettings(Section):
    """The store of limits."""

    url: RedisUrl = "redis://127.0.0.1:6379/0"
    """Also read from `REDIS_URL`. `redis://`, `rediss://` (TLS), `unix://`, or `redis+sentinel://`
    and `redis+cluster://` with a list of hosts."""
    ca_file: Path | None = None
    """PEM bundle for `rediss` URLs; the system's authorities when empty."""
    client_cert_file: Path | None = None
    """PEM certificate for mutual TLS."""
    client_key_file: Path | None = None
    """Its key."""
    timeout_seconds: Seconds = 0.025
    """Budget of one command."""
    require_noeviction: bool = True
    """Don't start on a Redis whose `maxmemory-policy` lets it forget limits."""
    prefix: str = Field("sentinel", pattern=r"^[A-Za-z0-9:_.-]{1,64}$")
    """In front of every key, to keep installations apart."""


class LimitSettings(Section):
    """Limits: a policy file, or else one limit for every user."""

    policy_file: Path | None = None
    """YAML file with limits by path, model, plan and user; it replaces the next two settings."""
    replicas_at_least: int = Field(1, ge=1, le=10_000)
    """Sidecars that share this Redis, at least: while Redis is away the local share of a limit is
    divided by the greater of this and the number last seen."""
    zion_quotas: bool = True
    """Enforce the quotas that Zion knows for each user, on top of the policy."""
    quota_on_outage: OnOutage = OnOutage.LOCAL
    """Zion's quotas while Redis is away: a bounded `local` share, `deny`, or `allow`."""
    quota_on_exhausted: OnExhausted = OnExhausted.SETTLE_AS_DEBT
    """When a quota runs out under a stream: let it end as debt, or `cut` it."""
    quota_right_size: bool = False
    """Clamp a request's output to what a quota has left instead of refusing it."""

    requests: int = Field(100, ge=1, le=10**9)
    """Requests in any window of `period_seconds`."""
    period_seconds: float = Field(60.0, ge=1, le=31_622_400)
    """Length of the window."""
    default_output_tokens: int = Field(1024, ge=0, le=10**7)
    """Output reserved when a request has no cap of its own and nothing is learned yet."""
    learn_output: bool = True
    """Learn from whole answers what to reserve for when there is no cap, by user and model."""
    learned_output_percentile: float = Field(0.95, ge=0.5, le=0.999, allow_inf_nan=False)
    """Share of such answers that shall need no more than was reserved."""
    learned_output_least: int = Field(64, ge=1, le=10**7)
    """Least that is reserved by what was learned, for each choice."""
    learned_output_most: int = Field(16_384, ge=1, le=10**7)
    """Most."""
    learned_output_samples: int = Field(20, ge=4, le=10_000)
    """Answers that must have been seen before they count."""
    learned_output_users: int = Field(10_000, ge=1, le=1_000_000)
    """Users remembered per process, at about 0.7 kB each."""


class TokenSettings(Section):
    """Counting."""

    aliases: dict[str, str] = Field({})
    """Other names of models (Azure deployments, nicknames) to the names they stand for; in the
    environment a JSON object."""
    overrides: dict[str, dict[str, Any]] = Field({})
    """Constants of counting that replace the shipped ones, by family or model name, see
    accounting.md; in the environment a JSON object."""
    threads: int = Field(2, ge=1, le=64)
    """For counting large bodies."""
