"""The ext_proc HTTP filter: one shape, whatever kind of gateway it is put into."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sentinel_extproc.envoyconf.api import core, ext_proc, types
from sentinel_extproc.envoyconf.names import METADATA_NAMESPACE

_CONTENT_LENGTH_SINCE = (1, 38)

_SEND = ext_proc.ProcessingModeHeaderSendMode.SEND
_SKIP = ext_proc.ProcessingModeHeaderSendMode.SKIP


def ext_proc_filter(
    *,
    cluster: str,
    message_timeout_s: float,
    envoy_version: tuple[int, int],
    forward_namespaces: Sequence[str] = (),
) -> ext_proc.ExternalProcessor:
    """The filter's configuration.

    Args:
        cluster: name of the cluster with the sidecar's workers.
        message_timeout_s: seconds that one reply may take; Envoy's own 0.2 is too little for a
            call that has to ask Zion.
        envoy_version: ``(major, minor)`` of the Envoy that will read this.
        forward_namespaces: dynamic metadata of earlier filters that is sent along.
    """
    return ext_proc.ExternalProcessor(
        grpc_service=core.GrpcService(
            envoy_grpc=core.GrpcServiceEnvoyGrpc(cluster_name=cluster),
        ),
        # Envoy's default too; stated because everything depends on it.
        failure_mode_allow=False,
        processing_mode=ext_proc.ProcessingMode(
            request_header_mode=_SEND,
            # Each reply to request headers says what is to become of the body, mostly BUFFERED. As
            # the default that would make Envoy answer 413 to a large body that is only to pass,
            # whenever more than the buffer comes before that reply does. STREAMED waits as well.
            request_body_mode=ext_proc.ProcessingModeBodySendMode.STREAMED,
            response_header_mode=_SEND,
            response_body_mode=ext_proc.ProcessingModeBodySendMode.STREAMED,
            request_trailer_mode=_SKIP,
            response_trailer_mode=_SKIP,
        ),
        allow_mode_override=True,
        message_timeout=timedelta(seconds=message_timeout_s),
        stat_prefix="sentinel",
        metadata_options=ext_proc.MetadataOptions(
            forwarding_namespaces=ext_proc.MetadataOptionsMetadataNamespaces(
                untyped=list(forward_namespaces)
            )
            if forward_namespaces
            else None,
            receiving_namespaces=ext_proc.MetadataOptionsMetadataNamespaces(
                untyped=[METADATA_NAMESPACE]
            ),
        ),
        # A changed :path or authorization must not send the request down another route.
        route_cache_action=ext_proc.ExternalProcessorRouteCacheAction.RETAIN,
        status_on_error=types.HttpStatus(code=types.StatusCode.ServiceUnavailable),
        # Without it, STREAMED takes Content-Length away from every plain JSON answer.
        allow_content_length_header=envoy_version >= _CONTENT_LENGTH_SINCE,
    )
