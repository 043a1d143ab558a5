"""Who comes in: bounds on exchanges at once, in all and per user, and shedding. Pure."""

from __future__ import annotations

import math
from collections import Counter

from sentinel_extproc.errors import Overloaded, TooManyAtOnce
from sentinel_extproc.overload.shedder import Bounds, Reason, Shedder

IN_ALL, PER_USER, QUEUE, RECOVERING = "exchanges", "user", "queue", "recovering"
REASONS = (IN_ALL, PER_USER, QUEUE, RECOVERING, *(reason.value for reason in Reason))
"""Why one was turned away. While it recovers nothing is over its bound any more."""

_FULL_WAITS_S = 5
"""Those who find it full come again within so many seconds, not all at once."""

HOPELESS = 2
"""Times what it may have waited: then it isn't even read."""

LEAST_BEHIND = 16
"""So few messages are no queue: whoever waited, it was a pause, and they are soon served."""


class Admission:
    """Counts the exchanges of one process and turns away what is too much.

    Args:
        most: exchanges at once.
        most_per_user: the same, of one user.
        most_wait_s: how long a new one may have waited for its turn while others wait behind it.
        ends_unread: whether any is ever hopeless.
    """

    def __init__(
        self,
        *,
        most: int = 5000,
        most_per_user: int = 1000,
        most_wait_s: float = 0.5,
        ends_unread: bool = True,
        shedder: Shedder | None = None,
    ) -> None:
        self.most = most
        self.most_per_user = most_per_user
        self.most_wait_s = most_wait_s
        self._hopeless_s = most_wait_s * HOPELESS if ends_unread else math.inf
        self.shedder = Shedder(Bounds()) if shedder is None else shedder
        self.turned_away: Counter[str] = Counter()
        self._user_of: dict[str, str] = {}
        self._by_user: dict[str, int] = {}

    @property
    def busiest(self) -> int:
        """Exchanges of the user that has most of them."""
        return max(self._by_user.values(), default=0)

    def of(self, user: str) -> int:
        """Exchanges of one user, by external id."""
        return self._by_user.get(user, 0)

    def enter(self, live: int, waited_s: float = 0.0, behind: int = 0) -> None:
        """Let an exchange in before anything is spent on it.

        Args:
            live: exchanges that have a stream, this one among them.
            waited_s: since it came.
            behind: messages that came after it and wait for their turn.

        Raises:
            Overloaded: it is too much.
        """
        if live > self.most:
            self.turned_away[IN_ALL] += 1
            raise Overloaded(1 + self.turned_away[IN_ALL] % _FULL_WAITS_S)
        if waited_s >= self.most_wait_s and behind >= LEAST_BEHIND:
            raise self.too_late()
        if not self.shedder.admits():
            self.turned_away[_first(self.shedder.reasons)] += 1
            raise Overloaded(self.shedder.retry_after_s)

    def is_hopeless(self, waited_s: float, behind: int) -> bool:
        """Whether one waited so long for its turn, with others behind it, that it shall be ended
        unread, at a fraction of the cost of an answer. Counted if so."""
        if waited_s < self._hopeless_s or behind < LEAST_BEHIND:
            return False
        self.turned_away[QUEUE] += 1
        return True

    def too_late(self) -> Overloaded:
        """What one is told that waited too long for its turn."""
        self.turned_away[QUEUE] += 1
        return Overloaded(1 + self.turned_away[QUEUE] % _FULL_WAITS_S)

    def take(self, exchange_id: str, user: str) -> None:
        """Count an exchange as its user's; once, however often it is said.

        Raises:
            TooManyAtOnce: the user has as many as may be.
        """
        if exchange_id in self._user_of:
            return
        running = self._by_user.get(user, 0)
        if running >= self.most_per_user:
            self.turned_away[PER_USER] += 1
            raise TooManyAtOnce(self.most_per_user)
        self._user_of[exchange_id] = user
        self._by_user[user] = running + 1

    def leave(self, exchange_id: str) -> None:
        """The exchange is over, or never was counted."""
        user = self._user_of.pop(exchange_id, None)
        if user is None:
            return
        left = self._by_user[user] - 1
        if left:
            self._by_user[user] = left
        else:
            del self._by_user[user]


def _first(reasons: frozenset[Reason]) -> str:
    return min((reason.value for reason in reasons), default=RECOVERING)
