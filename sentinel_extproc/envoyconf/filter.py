"""The ext_proc HTTP filter: one shape, whatever kind of gateway it is put into."""

from __future__ import annotations

from datetime import timedelta

from sentinel_extproc.envoyconf.api import core, ext_proc, hcm, protobuf, types
from sentinel_extproc.envoyconf.attachment import Attachment
from sentinel_extproc.envoyconf.clusters import PROCESSOR_CLUSTER
from sentinel_extproc.envoyconf.names import FILTER_NAME, METADATA_NAMESPACE, ROUTE_NAME_ATTRIBUTE
from sentinel_extproc.envoyconf.versions import CONTENT_LENGTH_SINCE

_SEND = ext_proc.ProcessingModeHeaderSendMode.SEND
_SKIP = ext_proc.ProcessingModeHeaderSendMode.SKIP

_OBSERVER_CLOSES_S = 5


def attached_filter(attachment: Attachment, *, cluster: str = PROCESSOR_CLUSTER) -> hcm.HttpFilter:
    """The filter, to be put in front of the router.

    Args:
        cluster: name of the cluster with the sidecar's workers.
    """
    return hcm.HttpFilter(
        name=FILTER_NAME, typed_config=protobuf.Any.pack(_processor(attachment, cluster))
    )


def _processor(attachment: Attachment, cluster: str) -> ext_proc.ExternalProcessor:
    return _observer(attachment, cluster) if attachment.shadow else _governor(attachment, cluster)


def _observer(attachment: Attachment, cluster: str) -> ext_proc.ExternalProcessor:
    streamed = ext_proc.ProcessingModeBodySendMode.STREAMED
    return ext_proc.ExternalProcessor(
        grpc_service=core.GrpcService(
            envoy_grpc=core.GrpcServiceEnvoyGrpc(cluster_name=cluster),
        ),
        observability_mode=True,
        # Whatever becomes of the sidecar, traffic flows.
        failure_mode_allow=True,
        # It may still be reading when the client has its answer.
        deferred_close_timeout=timedelta(seconds=_OBSERVER_CLOSES_S),
        processing_mode=ext_proc.ProcessingMode(
            request_header_mode=_SEND,
            request_body_mode=streamed,
            request_trailer_mode=_SEND,
            response_header_mode=_SEND,
            response_body_mode=streamed,
            response_trailer_mode=_SEND,
        ),
        request_attributes=_request_attributes(attachment),
        message_timeout=timedelta(seconds=attachment.message_timeout_s),
        stat_prefix="sentinel",
        metadata_options=_metadata(attachment),
        route_cache_action=ext_proc.ExternalProcessorRouteCacheAction.RETAIN,
        allow_content_length_header=attachment.envoy_version >= CONTENT_LENGTH_SINCE,
    )


def _request_attributes(attachment: Attachment) -> list[str]:
    return [ROUTE_NAME_ATTRIBUTE] if attachment.providers else []


def _metadata(attachment: Attachment) -> ext_proc.MetadataOptions:
    forward_namespaces = list(attachment.forward_namespaces)
    return ext_proc.MetadataOptions(
        forwarding_namespaces=ext_proc.MetadataOptionsMetadataNamespaces(untyped=forward_namespaces)
        if forward_namespaces
        else None,
        receiving_namespaces=ext_proc.MetadataOptionsMetadataNamespaces(
            untyped=[METADATA_NAMESPACE]
        ),
    )


def _governor(attachment: Attachment, cluster: str) -> ext_proc.ExternalProcessor:
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
        request_attributes=_request_attributes(attachment),
        message_timeout=timedelta(seconds=attachment.message_timeout_s),
        stat_prefix="sentinel",
        metadata_options=_metadata(attachment),
        # A changed :path or authorization must not send the request down another route.
        route_cache_action=ext_proc.ExternalProcessorRouteCacheAction.RETAIN,
        status_on_error=types.HttpStatus(code=types.StatusCode.ServiceUnavailable),
        # Without it, STREAMED takes Content-Length away from every plain JSON answer.
        allow_content_length_header=attachment.envoy_version >= CONTENT_LENGTH_SINCE,
    )


def not_here() -> ext_proc.ExtProcPerRoute:
    """The override for a route whose requests the sidecar isn't asked about."""
    return ext_proc.ExtProcPerRoute(disabled=True)
