"""How one request went. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from .histogram import Histogram


class Result(StrEnum):
    """What became of a request.

    ``REFUSED``: the gateway said no (a status below 500 with ``x-sentinel-error``). ``FAILED``:
    any other status that isn't 2xx, no or half an answer, or none in time. ``LEFT``: its client
    left on purpose. ``CUT``: it was still running at the end of the test.
    """

    OK = "ok"
    REFUSED = "refused"
    FAILED = "failed"
    LEFT = "left"
    CUT = "cut"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request; times are seconds from the beginning of the test.

    Attributes:
        reason: of anything but OK: a code of the gateway's, ``HTTP 502``, or words of ours.
        due_s: when it should have been sent; what waiting is measured from.
        first_s: when the first text of a stream came.
        output_tokens: of its answer; ``told``: the provider said so, else events were counted.
        retry_after_s: that the answer asked for.
    """

    kind: str
    result: Result
    due_s: float
    sent_s: float
    ended_s: float
    status: int | None = None
    reason: str | None = None
    first_s: float | None = None
    gaps: Histogram | None = None
    output_tokens: int = 0
    told: bool = False
    retry_after_s: float | None = None


def judge(
    status: int, code: str | None, *, complete: bool, error: str | None
) -> tuple[Result, str | None]:
    """The result of a whole answer, and the reason.

    Args:
        code: of ``x-sentinel-error``.
        complete: whether a stream has had its end.
        error: that a stream ended with.
    """
    if not 200 <= status < 300:
        refused = code is not None and status < 500
        return (Result.REFUSED if refused else Result.FAILED), code or f"HTTP {status}"
    if error is not None:
        return Result.FAILED, f"in the stream: {error}"
    return (Result.OK, None) if complete else (Result.FAILED, "a stream without its end")
