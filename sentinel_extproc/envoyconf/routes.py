"""Routes to the provider: the governed one, and those that the sidecar isn't asked about."""

from __future__ import annotations

import re
from datetime import timedelta

from sentinel_extproc.envoyconf.api import matcher, protobuf, route
from sentinel_extproc.envoyconf.attachment import Attachment
from sentinel_extproc.envoyconf.clusters import PROVIDER_CLUSTER
from sentinel_extproc.envoyconf.filter import not_here
from sentinel_extproc.envoyconf.names import FILTER_NAME

# The provider has no business with our clients' addresses.
CLIENT_ADDRESS_HEADERS = ("x-forwarded-for", "x-envoy-external-address", "x-envoy-internal")

# Where the sidecar isn't asked, nobody else takes the user's token out.
_CREDENTIAL_HEADERS = (
    *("authorization", "proxy-authorization", "api-key", "x-api-key", "cookie"),
    "sec-websocket-protocol",
)


def provider_routes(attachment: Attachment) -> list[route.Route]:
    """In the order in which they are tried."""
    unmetered = [_unmetered(path, attachment) for path in attachment.unmetered]
    return [*unmetered, _governed(attachment)]


def _governed(attachment: Attachment) -> route.Route:
    return route.Route(
        match=route.RouteMatch(prefix="/"),
        route=_action(
            attachment,
            # For realtime sessions; the sidecar refuses it everywhere else.
            [route.RouteActionUpgradeConfig(upgrade_type="websocket")],
        ),
        request_body_buffer_limit=attachment.buffer_limit_bytes,
        request_headers_to_remove=list(CLIENT_ADDRESS_HEADERS),
    )


def _unmetered(path: str, attachment: Attachment) -> route.Route:
    # No percent sign: Envoy leaves %2F as it is, and a provider that decodes it would see another
    # path than the one that was matched here.
    pattern = re.escape(path).replace("\\-", "-").replace("\\~", "~") + "(?:/[A-Za-z0-9._~/-]*)?"
    return route.Route(
        match=route.RouteMatch(safe_regex=matcher.RegexMatcher(regex=pattern)),
        route=_action(attachment, []),
        request_headers_to_remove=[*CLIENT_ADDRESS_HEADERS, *_CREDENTIAL_HEADERS],
        typed_per_filter_config={FILTER_NAME: protobuf.Any.pack(not_here())},
    )


def _action(
    attachment: Attachment, upgrades: list[route.RouteActionUpgradeConfig]
) -> route.RouteAction:
    return route.RouteAction(
        cluster=PROVIDER_CLUSTER,
        host_rewrite_literal=attachment.provider_authority,
        # The default of 15 s would cut long generations.
        timeout=timedelta(0),
        idle_timeout=attachment.stream_idle_timeout,
        upgrade_configs=upgrades,
    )
