"""A scenario from YAML: who sends what, how often and for how long. Every fault found at once.

::

    target: http://127.0.0.1:8080
    users: {count: 200, token: "user-{n}"}     # or {tokens_file: tokens.txt}
    load: {model: open, rate: 50, ramp: 10s, duration: 2m}
    mix:
      - name: chat
        weight: 7
        endpoint: chat
        models: {gpt-4o-mini: 4, gpt-4o: 1}
        stream: true
        prompt_chars: {p50: 800, p95: 12000}
        output_tokens: {p50: 150, p95: 600}
        aborts: 2%
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from sentinel_extproc.yaml_file import YamlFileError, parse, read_text

from .quantities import Duration, Share, Sizes, Times
from .spread import Fixed

MAX_DURATION_S = 24 * 3600.0
MAX_REQUESTS = 100_000_000
MAX_CONCURRENCY = 10_000
MAX_PROMPT_CHARS = 4_000_000
MAX_KINDS = 50

ENDPOINTS = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
    "embeddings": "/v1/embeddings",
}
Endpoint = Literal["chat", "completions", "responses", "messages", "embeddings"]


class ScenarioError(YamlFileError):
    """A scenario that can't be used."""


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _weighted(value: object) -> object:
    return {value: 1} if isinstance(value, str) else value


class Kind(_Entry):
    """One kind of request.

    Attributes:
        weight: how often, beside the other kinds.
        path: instead of the endpoint's usual one.
        models: names and how often each.
        prompt_chars: length of the user's text.
        output_tokens: the most that is asked for; not sent to embeddings.
        think: between an answer and the same user's next request; closed model only.
        aborts: share of requests whose client leaves early.
        abort_after: how long such a client waits, from the moment of sending.
        headers: more of them; ``{output_tokens}`` in a value is replaced.
    """

    name: str = Field(min_length=1, max_length=60)
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    endpoint: Endpoint = "chat"
    path: str | None = Field(default=None, pattern=r"^/[!-~]*$")
    models: Annotated[dict[str, Annotated[float, Field(gt=0)]], BeforeValidator(_weighted)] = Field(
        default={"gpt-4o-mini": 1}, min_length=1
    )
    stream: bool = False
    prompt_chars: Sizes = Fixed(300)
    output_tokens: Sizes = Fixed(100)
    think: Times = Fixed(0)
    aborts: Share = 0.0
    abort_after: Times = Fixed(0.5)
    headers: dict[str, str] = {}

    @model_validator(mode="after")
    def _possible(self) -> Kind:
        if self.stream and self.endpoint == "embeddings":
            raise ValueError("embeddings have no streams")
        return self


class Users(_Entry):
    """Who sends: the lines of a file, or ``count`` tokens made from a pattern."""

    tokens_file: Path | None = None
    token: str | None = None
    count: int = Field(default=1, ge=1, le=1_000_000)

    @model_validator(mode="after")
    def _one_way(self) -> Users:
        if (self.tokens_file is None) == (self.token is None):
            raise ValueError("needs tokens_file or token, not both")
        if self.count > 1 and self.token is not None and "{n}" not in self.token:
            raise ValueError("token needs {n} in it for a count of more than one")
        return self


class Load(_Entry):
    """When requests are sent, and the bounds of it all.

    Attributes:
        model: ``closed``: so many users, each waits for its answer and thinks; ``open``: requests
            arrive at a rate, whether or not the earlier ones have been answered.
        users: of the closed model, at once.
        rate: of the open model, requests per second.
        arrivals: of the open model: ``poisson``, as of many strangers, or ``even``.
        ramp: until all users are there, or the rate is reached; part of the duration.
        grace: how long to wait at the end for what is running.
        timeout: of one request, from its sending.
        honour_retry_after: a user that was told when to come back isn't sent before.
    """

    model: Literal["closed", "open"] = "closed"
    users: int = Field(default=10, ge=1, le=MAX_CONCURRENCY)
    rate: float = Field(default=10.0, gt=0, le=100_000, allow_inf_nan=False)
    arrivals: Literal["poisson", "even"] = "poisson"
    ramp: Duration = 0.0
    duration: Duration = 30.0
    grace: Duration = 30.0
    timeout: Duration = 120.0
    max_requests: int = Field(default=1_000_000, ge=1, le=MAX_REQUESTS)
    max_concurrency: int = Field(default=1_000, ge=1, le=MAX_CONCURRENCY)
    honour_retry_after: bool = True

    @model_validator(mode="after")
    def _bounded(self) -> Load:
        if not 0 < self.duration <= MAX_DURATION_S:
            raise ValueError("duration must be more than 0 and at most 24h")
        if self.ramp > self.duration:
            raise ValueError("ramp must not exceed duration")
        if not 0 < self.timeout <= MAX_DURATION_S or self.grace > MAX_DURATION_S:
            raise ValueError("timeout must be more than 0, and neither it nor grace over 24h")
        if self.model == "closed" and self.users > self.max_concurrency:
            raise ValueError("users must not exceed max_concurrency")
        return self


USUAL = Path(__file__).with_name("usual.yaml")
"""Which scenario there is without a file."""


class Scenario(_Entry):
    """All of it; see the module."""

    target: str = Field(pattern=r"^https?://[!-~]+$")
    users: Users
    load: Load = Load()
    mix: tuple[Kind, ...] = Field(max_length=MAX_KINDS)
    seed: int = 1

    @model_validator(mode="after")
    def _kinds(self) -> Scenario:
        if not self.mix:
            raise ValueError("mix: needs at least one kind of request")
        if len({kind.name for kind in self.mix}) < len(self.mix):
            raise ValueError("mix: names must differ")
        return self


def read_scenario(file: Path, change: Callable[[dict[str, Any]], None] | None = None) -> Scenario:
    """The scenario of a file.

    Args:
        change: may change the document before it is read for good.

    Raises:
        ScenarioError: with every fault.
    """
    text = read_text(file, ScenarioError)
    found = parse(text, Scenario, ScenarioError, whole="the scenario")
    if change is None:
        return found
    document = yaml.safe_load(text)
    change(document)
    changed = yaml.safe_dump(document)
    return parse(changed, Scenario, ScenarioError, whole="the scenario")


def tokens(users: Users, *, beside: Path | None = None) -> tuple[str, ...]:
    """The users' tokens. Lines of a file that are blank or begin with ``#`` are none.

    Args:
        beside: what a relative ``tokens_file`` is relative to.

    Raises:
        ScenarioError: the file can't be read or has none, or a token can't be sent.
    """
    if users.tokens_file is None:
        pattern = users.token or ""
        found = tuple(pattern.replace("{n}", str(n)) for n in range(users.count))
    else:
        text = read_text((beside or Path()) / users.tokens_file, ScenarioError)
        lines = (line.strip() for line in text.splitlines())
        found = tuple(line for line in lines if line and not line.startswith("#"))
    if not found:
        raise ScenarioError((f"{users.tokens_file}: has no tokens",))
    for place, token in enumerate(found, start=1):
        if not token.isascii() or not token.isprintable() or " " in token:
            # Without the token: it may be a real one.
            raise ScenarioError((f"users: token {place} has characters that no header may carry",))
    return found
