"""Envoy's own answers in the provider's error shape, ours untouched.

Some answers never come from us: a request that takes too long to arrive (408), a body over the
buffer (413), a provider whose answer breaks off as it begins (502), a sidecar or provider that
can't be reached (503), one that is too slow (504). By default they are plain text, and a client
that reads ``error.code`` finds nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from sentinel_extproc.envoyconf.api import accesslog, cel, core, hcm, protobuf

OWN_DETAILS = "sentinel_"
"""What the response code details of our immediate responses begin with; see transport.codec."""


@dataclass(frozen=True, slots=True)
class GatewayError:
    """An answer of Envoy's, as the client sees it.

    Attributes:
        type: OpenAI's ``type``; ``code`` is OpenAI's ``code``.
        retry_after_s: whole seconds; None for what no retry mends.
    """

    status: int
    type: str
    code: str
    message: str
    retry_after_s: int | None = None

    def body(self) -> str:
        """The same shape as ``errors.SentinelError.body``."""
        error = {"message": self.message, "type": self.type, "param": None, "code": self.code}
        return json.dumps({"error": error}, separators=(",", ":"))


GATEWAY_ERRORS = (
    GatewayError(
        408,
        "invalid_request_error",
        "request_timeout",
        "The request took too long to arrive.",
    ),
    GatewayError(
        413,
        "invalid_request_error",
        "payload_too_large",
        "The request body is larger than this gateway reads.",
    ),
    GatewayError(
        502,
        "service_unavailable_error",
        "bad_gateway",
        "The provider's answer broke off before it could be passed on.",
    ),
    GatewayError(
        503,
        "service_unavailable_error",
        "service_unavailable",
        "The gateway can't reach what it needs to serve this request.",
        retry_after_s=1,
    ),
    GatewayError(
        504,
        "service_unavailable_error",
        "gateway_timeout",
        "The gateway waited too long for what it needs to serve this request.",
    ),
)


def local_replies() -> hcm.LocalReplyConfig:
    """What the connection manager does with replies that Envoy or one of its filters makes.

    An immediate response of ours is such a reply too; it is told apart by its details, and passes
    byte for byte. Without details, the expression has no value and nothing is rewritten.
    """
    return hcm.LocalReplyConfig(mappers=[_mapper(error) for error in GATEWAY_ERRORS])


def _mapper(error: GatewayError) -> hcm.ResponseMapper:
    headers = {"x-sentinel-error": error.code}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(error.retry_after_s)
    expression = (
        f"response.code == {error.status} && !response.code_details.startsWith('{OWN_DETAILS}')"
    )
    return hcm.ResponseMapper(
        filter=accesslog.AccessLogFilter(
            extension_filter=accesslog.ExtensionFilter(
                name="envoy.access_loggers.extension_filters.cel",
                typed_config=protobuf.Any.pack(cel.ExpressionFilter(expression=expression)),
            )
        ),
        body_format_override=core.SubstitutionFormatString(
            # Read as a format: a percent sign would begin a command.
            text_format_source=core.DataSource(inline_string=error.body().replace("%", "%%")),
            content_type="application/json",
        ),
        headers_to_add=[
            core.HeaderValueOption(
                header=core.HeaderValue(key=name, value=value),
                append_action=core.HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
            )
            for name, value in headers.items()
        ],
    )
