"""How the stand-in Zion can be made to fail, and the answers that it then gives."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from email.utils import formatdate
from enum import StrEnum

from starlette.responses import JSONResponse, Response, StreamingResponse

from sentinel_extproc.demo.zion_state import JsonObject

_OVERSIZED_BYTES = 8 * 1024 * 1024
_TRICKLE_LIMIT_S = 120


class ZionCall(StrEnum):
    """The four calls of the contract."""

    ME = "me"
    LIMITS = "limits"
    INCREMENT = "increment"
    BATCH = "batch"


class FaultKind(StrEnum):
    """How a call can be made to fail."""

    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    RATE_LIMITED = "rate_limited"
    ERROR_500 = "error_500"
    HANG = "hang"
    TRICKLE = "trickle"
    MALFORMED = "malformed"
    OVERSIZED = "oversized"
    DROP = "drop"
    COMMIT_THEN_DROP = "commit_then_drop"
    POISON = "poison"
    PARTIAL = "partial"
    REFUSED = "refused"


@dataclass(slots=True)
class ZionFault:
    """A fault that is switched on.

    Attributes:
        times: how many more calls fail; None for all.
        retry_after_s: for ``rate_limited``: the header, in seconds from now.
        retry_after_date: write that header as an HTTP date instead.
        email: for ``poison``: batches with an item of this user fail whole, others don't. For
            ``partial``: in batches, this user's rows alone are refused, until it is cleared.
    """

    kind: FaultKind
    times: int | None = None
    retry_after_s: int = 1
    retry_after_date: bool = False
    email: str | None = None

    def refuses_row(self, item: object) -> bool:
        """Whether it fails this row of a batch alone."""
        return (
            self.kind is FaultKind.PARTIAL
            and self.email is not None
            and mentions([item], self.email)
        )


def success(data: JsonObject) -> Response:
    """Zion's 200."""
    return JSONResponse({"success": True, "data": data})


def failure(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    """Zion's refusal."""
    return JSONResponse({"success": False, "error": {"message": message}}, status, headers)


def faulty_response(fault: ZionFault) -> Response:
    """What a faulty call is answered, once any drop or hang is over."""
    match fault.kind:
        case FaultKind.UNAUTHORIZED:
            return failure(401, "Invalid or expired token")
        case FaultKind.FORBIDDEN:
            return failure(403, "Forbidden")
        case FaultKind.REFUSED:
            return failure(400, "Bad request")
        case FaultKind.RATE_LIMITED:
            wait = str(fault.retry_after_s)
            if fault.retry_after_date:
                wait = formatdate(time.time() + fault.retry_after_s, usegmt=True)
            return failure(429, "Too many requests", {"retry-after": wait})
        case FaultKind.TRICKLE:
            return StreamingResponse(_trickle(), media_type="application/json")
        case FaultKind.MALFORMED:
            return Response(b'{"success": true, "data": [\xff', media_type="application/json")
        case FaultKind.OVERSIZED:
            return Response(b" " * _OVERSIZED_BYTES, media_type="application/json")
        case _:
            return failure(500, "Internal server error")


async def _trickle() -> AsyncIterator[bytes]:
    for _ in range(_TRICKLE_LIMIT_S):
        yield b" "
        await asyncio.sleep(1)


def mentions(items: object, email: str | None) -> bool:
    """Whether one of the increments is for this user."""
    rows = items if isinstance(items, list) else []
    return any(isinstance(row, dict) and row.get("email") == email for row in rows)
