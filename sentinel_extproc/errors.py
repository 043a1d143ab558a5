"""Every failure a client can see, and the HTTP answer it implies.

Errors from libraries are translated into these once, at the seam where the library is called.
Each class fixes a status, an OpenAI error ``type`` and a default ``code``, so that the ``openai``
client raises its own typed exceptions. Our own facts travel beside OpenAI's object, under
``sentinel``, where that client ignores them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import ClassVar

Detail = str | int | float | bool | None


class SentinelError(Exception):
    """A failure with an HTTP answer.

    Args:
        message: one sentence for the person at the client; never contains a secret or a body.
        code: OpenAI ``code``; the class's default when omitted.
        param: the JSON path of the offending request field, when there is one.
        retry_after_s: seconds until a retry can succeed; rounded up into ``Retry-After``.
        details: our own facts, put beside the error under ``sentinel``.
        headers: further answer headers, lower-case names.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "api_error"
    default_code: ClassVar[str] = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
        details: Mapping[str, Detail] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code if code is not None else self.default_code
        self.param = param
        self.retry_after_s = retry_after_s
        self.details = dict(details or {})
        self.extra_headers = dict(headers or {})

    def body(self) -> bytes:
        """The JSON answer in OpenAI's error shape, UTF-8."""
        answer: dict[str, object] = {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }
        if self.details:
            answer["sentinel"] = self.details
        return json.dumps(answer, separators=(",", ":")).encode()

    def headers(self) -> dict[str, str]:
        """Answer headers, lower-case names, values without line breaks."""
        headers = {"content-type": "application/json", "x-sentinel-error": self.code}
        if self.retry_after_s is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after_s)))
        return headers | self.extra_headers


class InvalidRequest(SentinelError):
    """The request can't be understood or must not be forwarded as it is."""

    status = 400
    type = "invalid_request_error"
    default_code = "invalid_request"


class PromptTooLarge(InvalidRequest):
    """The prompt alone exceeds a limit's capacity: no retry can ever succeed."""

    default_code = "prompt_exceeds_limit"


class Unauthenticated(SentinelError):
    """No credential, or one the identity source says is invalid."""

    status = 401
    type = "invalid_request_error"
    default_code = "invalid_api_key"


class CredentialRevoked(Unauthenticated):
    """The credential was good when it was checked, and a revocation came since."""

    default_code = "token_revoked"


class Forbidden(SentinelError):
    """The caller is known, or could be, but may not do this."""

    status = 403
    type = "permission_error"
    default_code = "forbidden"


class NotFound(SentinelError):
    """No such path on this gateway."""

    status = 404
    type = "invalid_request_error"
    default_code = "unknown_url"


class MethodNotAllowed(InvalidRequest):
    """A method that no API here has."""

    status = 405
    default_code = "method_not_allowed"


class PayloadTooLarge(InvalidRequest):
    """A header or body over its bound."""

    status = 413
    default_code = "payload_too_large"


class LengthRequired(InvalidRequest):
    """A body that is decided on by its size, without a size."""

    status = 411
    default_code = "length_required"


class LimitExceeded(SentinelError):
    """A limit has no room for this request now."""

    status = 429
    type = "rate_limit_error"
    default_code = "rate_limit_exceeded"


class Unavailable(SentinelError):
    """Something we depend on can't answer; the request was not forwarded."""

    status = 503
    type = "service_unavailable_error"
    default_code = "service_unavailable"

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float = 1.0,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, code=code, retry_after_s=retry_after_s, headers=headers)


class Overloaded(Unavailable):
    """Too much runs already; what runs goes on, this wasn't begun."""

    default_code = "overloaded"

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(
            "The gateway has too much to do right now; try again.", retry_after_s=retry_after_s
        )


class TooManyAtOnce(LimitExceeded):
    """One user has as many requests in progress as may be."""

    default_code = "too_many_at_once"

    def __init__(self, most: int) -> None:
        super().__init__(
            f"You have {most} requests in progress, the most at once; wait for one to end.",
            retry_after_s=1.0,
            details={"most_at_once": most},
        )
