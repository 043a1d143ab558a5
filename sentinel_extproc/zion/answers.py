"""What an answer, or the lack of one, means for the caller. Pure.

Whoever calls with a user's token learns about that token; calls with our own key are different:
a 401 there means that *we* are misconfigured, and telling a user that his key is bad would be
wrong. So only ``whoami`` can end in ``Unauthenticated``.
"""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from enum import StrEnum

from sentinel_extproc.errors import Forbidden, SentinelError, Unauthenticated, Unavailable

RETRY_AFTER_CAP_S = 60.0
"""Longest wait that Zion can impose: after a minute we look for ourselves."""

DEFAULT_RETRY_AFTER_S = 1.0


class Call(StrEnum):
    """The calls of the contract."""

    WHOAMI = "whoami"
    LIMITS = "limits"
    REPORT = "report"


class Reason(StrEnum):
    """Why Zion could not answer."""

    RATE_LIMITED = "rate_limited"
    BREAKER_OPEN = "breaker_open"
    CONNECT = "connect"
    TIMEOUT = "timeout"
    BROKEN = "broken"
    STATUS = "status"
    MALFORMED = "malformed"
    OVERSIZED = "oversized"
    REJECTED = "rejected"
    """A 4xx that the contract doesn't know, or our own key refused: not a sign of ill health."""


FAULTS = frozenset(
    {
        Reason.CONNECT,
        Reason.TIMEOUT,
        Reason.BROKEN,
        Reason.STATUS,
        Reason.MALFORMED,
        Reason.OVERSIZED,
    }
)
"""Reasons that count against Zion's health in the breaker."""


class ZionUnavailable(Unavailable):
    """Zion could not be asked, or its answer not used.

    Attributes:
        reason: why.
        ambiguous: the request may have taken effect all the same.
        detail: for the operator's log; not part of the client's answer.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: Reason = Reason.BROKEN,
        ambiguous: bool = False,
        detail: str = "",
        retry_after_s: float = DEFAULT_RETRY_AFTER_S,
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s, code="identity_unavailable")
        self.reason = reason
        self.ambiguous = ambiguous
        self.detail = detail


class BatchRefusedError(Exception):
    """Zion refused a batch as a whole (400, 413, 422) and billed none of it. Never a client's
    answer: only the reporter sees it."""

    def __init__(self, status: int) -> None:
        super().__init__(f"batch refused with {status}")
        self.status = status


def retry_after(value: str | None, now_s: float) -> float | None:
    """Seconds to wait according to a ``Retry-After`` value, in either of its forms, 0 to
    ``RETRY_AFTER_CAP_S``; None when there is none that can be read.

    Args:
        now_s: seconds since the epoch, for the date form (RFC 9110, 10.2.3).
    """
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        # Longer than any number of seconds that matters, and int() refuses very long ones.
        return min(float(int(value)), RETRY_AFTER_CAP_S) if len(value) < 10 else RETRY_AFTER_CAP_S
    try:
        moment = parsedate_to_datetime(value[:64])
        return min(max(moment.timestamp() - now_s, 0.0), RETRY_AFTER_CAP_S)
    except (ValueError, OverflowError, OSError):
        return None


def failure(call: Call, status: int, retry_after_value: str | None, now_s: float) -> Exception:
    """The error for a status that isn't 2xx."""
    wait_s = retry_after(retry_after_value, now_s)
    if wait_s is None:
        wait_s = DEFAULT_RETRY_AFTER_S
    if status == 429:
        return ZionUnavailable(
            "The user service is limiting our calls; try again shortly.",
            reason=Reason.RATE_LIMITED,
            retry_after_s=wait_s,
        )
    if call is Call.REPORT and status in (400, 413, 422):
        return BatchRefusedError(status)
    user_error = _user_error(call, status)
    if user_error is not None:
        return user_error
    ill = status >= 500 or status < 400
    return ZionUnavailable(
        "The user service can't answer right now; the request was not forwarded.",
        reason=Reason.STATUS if ill else Reason.REJECTED,
        # A gateway in between may have lost the answer to something that was done. 501 and 503
        # say that nothing was.
        ambiguous=ill and status not in (501, 503),
        detail=f"status {status}",
        retry_after_s=wait_s,
    )


def own_key_refused(call: Call, status: int) -> bool | None:
    """Whether that status of a call refuses our own key, or shows that it is good; None if neither.

    Only reports are about nobody else: a 403 to ``limits`` may be about the user.
    """
    if call is Call.WHOAMI or status < 200 or 300 <= status < 400 or status >= 500:
        return None
    if status == 401 or (call is Call.REPORT and status == 403):
        return True
    return None if status in (403, 429) else False


def _user_error(call: Call, status: int) -> SentinelError | None:
    if call is Call.WHOAMI and status == 401:
        return Unauthenticated("The API key is not valid.")
    if call in (Call.WHOAMI, Call.LIMITS) and status == 403:
        return Forbidden("This account may not use the service.")
    if call is Call.LIMITS and status == 404:
        return Forbidden("The user service doesn't know this user.", code="user_not_found")
    return None
