"""Several providers behind one gateway: which of them a request is for. Pure.

Envoy chooses the way a request goes, by its own routes; this table only has to agree with it, or a
key would go to the wrong provider. So it goes by the name of Envoy's route where that is told, and
else by what Envoy's routes go by: the host, exactly as it was sent, then the longest path prefix. A
body isn't known when Envoy chooses, so no model can; what a provider may be asked for can still be
bounded by it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from enum import StrEnum
from fnmatch import translate

from msgspec import Struct

from sentinel_extproc.endpoints.azure import KEY_HEADER as AZURE_KEY_HEADER
from sentinel_extproc.endpoints.azure import match_azure
from sentinel_extproc.endpoints.table import Match, match, match_rest, names_below, plain_path
from sentinel_extproc.errors import NotFound
from sentinel_extproc.exchange.events import RequestHeaders
from sentinel_extproc.exchange.headers import Upstream
from sentinel_extproc.exchange.lines import first, first_values
from sentinel_extproc.frozen import value

_PORT_OR_DOT = re.compile(r"\.?(?::\d*)?\Z")

ANTHROPIC_VERSION = b"2023-06-01"
"""For clients that don't say; the API answers 400 without one."""


class Kind(StrEnum):
    """How a provider's paths and credentials look."""

    OPENAI = "openai"
    AZURE = "azure"
    ANTHROPIC = "anthropic"
    COMPATIBLE = "compatible"


API_PREFIX = {
    Kind.OPENAI: "/v1/",
    Kind.AZURE: "/openai/",
    Kind.ANTHROPIC: "/v1/",
    Kind.COMPATIBLE: "/v1/",
}
"""Where the paths of a kind's API begin."""

KEY_HEADER = {
    Kind.OPENAI: "authorization",
    Kind.AZURE: AZURE_KEY_HEADER,
    Kind.ANTHROPIC: "x-api-key",
    Kind.COMPATIBLE: "authorization",
}
"""Where a kind of provider takes its key; that is also where its clients put theirs."""


def upstream_for(
    kind: Kind, key: str | None, *, header: str = "", tell_identity: bool = False
) -> Upstream:
    """How requests with ``key`` present themselves.

    Args:
        key: None for a provider that asks for none.
        header: carries the key instead of the kind's own; ``authorization`` as a bearer token.

    Raises:
        ValueError: the key can't stand in a header.
    """
    header = header or KEY_HEADER[kind]
    line = "" if key is None else f"Bearer {key}" if header == "authorization" else key
    return Upstream(
        credentials=() if key is None else ((header, line.encode()),),
        tell_identity=tell_identity,
        defaults=(("anthropic-version", ANTHROPIC_VERSION),) if kind is Kind.ANTHROPIC else (),
    )


@value(frozen=True, slots=True)
class Provider:
    """One line of the table.

    Attributes:
        name: also of Envoy's routes to it.
        path_prefix: what clients put in front of the provider's own paths, and Envoy takes off;
            begins and ends with a slash.
        api_prefix: where the provider's paths begin behind that; empty: as its kind's do.
        hosts: ``:authority`` values that are for it, in lower case; none: whatever host has no
            provider of its own.
        models: globs that a request's model must match; none: every model.
        upstream: the credentials of the moment.
    """

    name: str
    kind: Kind
    upstream: Callable[[], Upstream]
    path_prefix: str = "/"
    api_prefix: str = ""
    hosts: tuple[str, ...] = ()
    models: tuple[str, ...] = ()

    def rules(self, method: str, target: str) -> Match:
        """The rules for a request.

        Raises:
            InvalidRequest, NotFound: as in :func:`~sentinel_extproc.endpoints.table.match`.
        """
        prefix = self.api_prefix or API_PREFIX[self.kind]
        azure = self.kind is Kind.AZURE  # where no path has an escape
        below = "" if azure else names_below(method, prefix)
        plain_path(target, names_below=below and self.path_prefix[:-1] + below)
        if not target.startswith(self.path_prefix):
            raise _no_provider()
        target = target[len(self.path_prefix) - 1 :]
        if azure:
            return match_azure(method, target, prefix=prefix)
        path = plain_path(target, names_below=below)
        if not path.startswith(prefix):
            raise NotFound(f"The provider {self.name} serves paths under {prefix}.")
        rest = path[len(prefix) :]
        key_header = "x-api-key" if self.kind is Kind.ANTHROPIC else ""
        # One path for the same call at every provider, so that limits by path hold at all of them.
        return Match(match_rest(method, rest), f"/v1/{rest}", key_header)


class Chosen(Struct, frozen=True, gc=False):
    """The provider and the rules for one request.

    Attributes:
        name: of the provider; empty where there is only one.
        models: what its model must match; None: every model is served.
    """

    match: Match
    upstream: Upstream
    name: str = ""
    models: re.Pattern[str] | None = None

    def check_model(self, model: str) -> None:
        """Refuse a model that this provider isn't for.

        Raises:
            NotFound: it isn't.
        """
        if model and self.models is not None and self.models.fullmatch(model) is None:
            raise NotFound(
                f"The provider {self.name} doesn't serve this model here.",
                code="model_not_found",
                param="model",
            )


Choose = Callable[[RequestHeaders], Chosen]
"""Finds the provider and the rules for a request; raises InvalidRequest or NotFound."""


def only(upstream: Upstream | Callable[[], Upstream], *, prefix: str = "/v1/") -> Choose:
    """The ``Choose`` of a gateway with one provider.

    Args:
        prefix: the paths that this gateway serves.
    """

    def choose(event: RequestHeaders) -> Chosen:
        given = first_values(event.headers).get
        method = given(":method", b"").decode("latin-1")
        found = match(method, given(":path", b"").decode("latin-1"), prefix=prefix)
        return Chosen(found, upstream if isinstance(upstream, Upstream) else upstream())

    return choose


class ProviderTable:
    """A ``Choose`` over several providers.

    Raises:
        ValueError: a name, or a host with a path prefix, is there twice.
    """

    def __init__(self, providers: Iterable[Provider]) -> None:
        listed = sorted(providers, key=lambda one: len(one.path_prefix), reverse=True)
        self._by_name = {one.name: one for one in listed}
        if len(self._by_name) != len(listed):
            raise ValueError("two providers have the same name")
        self._by_host: dict[str, list[Provider]] = {}
        for one in listed:
            for host in one.hosts or ("",):
                others = self._by_host.setdefault(host.lower(), [])
                if any(other.path_prefix == one.path_prefix for other in others):
                    raise ValueError(
                        f"{one.name} and another provider both have {host or 'any host'} with "
                        f"{one.path_prefix}"
                    )
                others.append(one)
        self._models = {
            one.name: re.compile("|".join(translate(glob) for glob in one.models))
            for one in listed
            if one.models
        }

    def __call__(self, event: RequestHeaders) -> Chosen:
        headers = event.headers
        target = first(headers, ":path").decode("latin-1")
        provider = self._find(event, target)
        found = provider.rules(first(headers, ":method").decode("latin-1"), target)
        models = self._models.get(provider.name)
        return Chosen(found, provider.upstream(), provider.name, models)

    def _find(self, event: RequestHeaders, target: str) -> Provider:
        if event.route is not None and event.route in self._by_name:
            return self._by_name[event.route]
        host = first(event.headers, ":authority").decode("latin-1").lower()
        bare = _PORT_OR_DOT.sub("", host)
        if host not in self._by_host and bare in self._by_host:
            # Some gateways leave a port out of account and some don't: a guess could send one
            # provider's key to another.
            raise _no_provider()
        # As Envoy does: a host that is listed anywhere has these routes and no others.
        for provider in self._by_host.get(host) or self._by_host.get("", []):
            if target.startswith(provider.path_prefix):
                return provider
        raise _no_provider()


def _no_provider() -> NotFound:
    return NotFound("This gateway has no provider for that host and path.", code="unknown_provider")
