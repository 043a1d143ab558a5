"""The runtime flag that Envoy needs."""

from __future__ import annotations

from sentinel_extproc.envoyconf.api import bootstrap, protobuf
from sentinel_extproc.envoyconf.names import GRACEFUL_CLOSE_FLAG


def graceful_close_layer() -> bootstrap.RuntimeLayer:
    """Lets the sidecar finish after its last reply, instead of being cancelled."""
    return bootstrap.RuntimeLayer(
        name="sentinel", static_layer=protobuf.Struct.from_dict({GRACEFUL_CLOSE_FLAG: True})
    )
