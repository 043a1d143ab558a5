"""One request's way to a verdict: asked for whole, then for what is left of its output."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import lru_cache

from msgspec import Struct

from .claims import build_claim, right_sized
from .limit import Limit
from .model import Quantities, ReserveRequest
from .store import Claim, Decision, Seed, Verdict

_DENIED = Decision.DENIED
_ATTEMPTS_TO_RIGHT_SIZE = 2


class Asked(Struct, frozen=True, gc=False):
    """What was asked for last, and the answer.

    Attributes:
        held: what ``claim`` stands for, output clamped where limits are right-sized.
    """

    claim: Claim
    held: Quantities
    verdict: Verdict


async def ask(
    reserve: Callable[[Claim], Awaitable[Verdict]],
    request: ReserveRequest,
    limits: tuple[Limit, ...],
    quotas: tuple[tuple[Limit, Seed], ...] = (),
) -> Asked | None:
    """Reserve what ``request`` predicts, or what fits of it where limits are right-sized.

    Returns:
        None: nothing applies to it.

    Raises:
        PromptTooLarge: the prompt alone exceeds some limit's capacity.
        InvalidRequest: a cost formula has no value for this request.
    """
    model = request.subject.model
    held = request.predicted
    claim = build_claim(request, limits, quotas, held)
    if not claim.lines and not claim.epochs:
        return None
    sizable = bool(quotas) or _right_sizes(limits)
    sized = right_sized(claim, None, held, model) if sizable else held
    if sized is not held:
        held = sized
        claim = build_claim(request, limits, quotas, held)
    verdict = await reserve(claim)
    for _ in range(_ATTEMPTS_TO_RIGHT_SIZE):
        if verdict.decision is not _DENIED or verdict.unsure or not sizable:
            break
        smaller = right_sized(claim, verdict, held, model)
        if smaller == held:
            break
        held = smaller
        claim = build_claim(request, limits, quotas, held)
        verdict = await reserve(claim)
    return Asked(claim, held, verdict)


@lru_cache(maxsize=1024)
def _right_sizes(limits: tuple[Limit, ...]) -> bool:
    """Whether any of them does. A policy has few sets of limits."""
    return any(limit.right_size for limit in limits)
