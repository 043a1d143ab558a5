"""How often the control API may be called: by whom has the token, and by whom guesses it.

What is bounded costs more than its answer: a revocation is told to every replica, a question about
a token may ask Zion. Only calls with the right token count against what is allowed in all, and only
wrong ones wait for those before them, so that nobody else can keep an operator from revoking: what
keeps a guesser off is the token's length (``config.admin``).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from starlette.requests import Request

from sentinel_extproc.admin.throttle import GuessThrottle, Pace, Rate
from sentinel_extproc.errors import LimitExceeded
from sentinel_extproc.limits.words import span

EACH = Rate(burst=200, per_second=10.0)
"""Of one address: a script that revokes one user after another doesn't notice."""

IN_ALL = Rate(burst=500, per_second=50.0)

FREE_GUESSES = 20
LONGEST_GUESS_WAIT_S = 5.0
"""Less than at the log-in form: our commands wait for it before they tell whoever has an old token
that it is wrong."""


class Pacing:
    """What is left of it, by address.

    Args:
        clock: seconds that only go forward.
    """

    def __init__(
        self,
        *,
        each: Rate = EACH,
        in_all: Rate = IN_ALL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._guesses = GuessThrottle(
            free=FREE_GUESSES, longest_wait_s=LONGEST_GUESS_WAIT_S, clock=clock
        )
        self._pace = Pace(each=each, in_all=in_all, clock=clock)

    def wrong(self, address: str) -> None:
        """A token was wrong.

        Raises:
            LimitExceeded: as many before it, from there.
        """
        wait_s = self._guesses.wait_s(address)
        if wait_s > 0:
            raise LimitExceeded(
                f"Too many wrong admin tokens came from here. Try again in {span(wait_s)}.",
                code="too_many_wrong_tokens",
                retry_after_s=wait_s,
            )
        self._guesses.failed(address)

    def take(self, address: str) -> None:
        """A call by somebody who may make it.

        Raises:
            LimitExceeded: too many; this one is not to be made.
        """
        wait_s = self._pace.take(address)
        if wait_s > 0:
            raise LimitExceeded(
                f"Too many calls to the admin port. Try again in {span(wait_s)}.",
                code="too_many_calls",
                retry_after_s=wait_s,
            )


def caller(request: Request) -> str:
    """Whose call it is, for counting: its address, or that it came by a Unix socket."""
    return request.client.host if request.client is not None else "local"
