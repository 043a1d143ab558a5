"""Names that Envoy's configuration and ours must agree on. Needs nothing installed."""

from __future__ import annotations

FILTER_NAME = "envoy.filters.http.ext_proc"
JWT_NAMESPACE = "envoy.filters.http.jwt_authn"
"""Where Envoy's filter puts verified claims; forward it for ``identity.source: envoy_jwt``."""

ROUTE_NAME_ATTRIBUTE = "xds.route_name"
"""Tells the sidecar which route Envoy chose, and so which provider."""

METADATA_NAMESPACE = "sentinel"
"""Where our dynamic metadata goes; access logs and later filters read it there."""

GRACEFUL_CLOSE_FLAG = "envoy.reloadable_features.ext_proc_graceful_grpc_close"
"""Runtime flag that lets us finish after the last reply instead of being cancelled."""

USAGE_READER = "envoy.filters.http.ai_protocol_manager"
"""Envoy's filter that reads it."""

USAGE_NAMESPACE = "sentinel.usage"
"""Where Envoy puts what it has read of an answer's usage, when it meters natively."""
