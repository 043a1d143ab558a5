"""The access log: one JSON object a request, our facts in it."""

from __future__ import annotations

from sentinel_extproc.envoyconf.api import accesslog, core, matcher, protobuf, stream_log
from sentinel_extproc.envoyconf.names import METADATA_NAMESPACE

FIELDS = {
    "time": "%START_TIME%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "method": "%REQ(:METHOD)%",
    "path": "%PATH(NQ)%",
    "status": "%RESPONSE_CODE%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "flags": "%RESPONSE_FLAGS%",
    "bytes_in": "%BYTES_RECEIVED%",
    "bytes_out": "%BYTES_SENT%",
    "duration_ms": "%DURATION%",
    "upstream": "%UPSTREAM_HOST%",
    # User, model, tokens, decision and all else that we tell; an object, or null where we were
    # not asked.
    "sentinel": f"%DYNAMIC_METADATA({METADATA_NAMESPACE})%",
}


def access_log(*, only_asked: bool = False) -> accesslog.AccessLog:
    """To standard output, where containers keep their logs.

    Args:
        only_asked: leave out requests that the sidecar wasn't asked about.
    """
    return accesslog.AccessLog(
        name="envoy.access_loggers.stdout",
        filter=_asked() if only_asked else None,
        typed_config=protobuf.Any.pack(
            stream_log.StdoutAccessLog(
                log_format=core.SubstitutionFormatString(
                    json_format=protobuf.Struct.from_dict(FIELDS)
                )
            )
        ),
    )


def _asked() -> accesslog.AccessLogFilter:
    """Whether there is anything in our namespace."""
    matches = matcher.MetadataMatcher(
        filter=METADATA_NAMESPACE,
        path=[matcher.MetadataMatcherPathSegment(key="exchange_id")],
        value=matcher.ValueMatcher(present_match=True),
    )
    return accesslog.AccessLogFilter(
        metadata_filter=accesslog.MetadataFilter(matcher=matches, match_if_key_not_found=False)
    )
