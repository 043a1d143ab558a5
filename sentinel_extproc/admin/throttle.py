"""How much may be asked of the admin port, by where it comes from. Pure.

Addresses beyond those that are remembered share one place, so that neither memory nor what is
allowed in all grows with the number of addresses.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable
from dataclasses import dataclass

FREE = 5
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 60.0
FORGOTTEN_AFTER_S = 900.0
"""Without a wrong token for so long, an address begins anew."""

MAX_SOURCES = 1000
_OTHERS = "others"


@dataclass(slots=True)
class _Source:
    failures: int
    last_s: float
    until_s: float


class GuessThrottle:
    """Counts wrong admin tokens by where they come from.

    A few are free, for people who mistype; after that wrong ones from that address have to wait,
    twice as long each time, up to ``longest_wait_s``. The right one never does: else whoever shares
    an operator's address could keep them out.

    Args:
        free: the wrong token from which on there is a wait.
        clock: seconds that only go forward.
    """

    def __init__(
        self,
        *,
        free: int = FREE,
        longest_wait_s: float = LONGEST_WAIT_S,
        max_sources: int = MAX_SOURCES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._free = free
        self._longest_wait_s = longest_wait_s
        self._max_sources = max_sources
        self._clock = clock
        self._sources: dict[str, _Source] = {}

    def wait_s(self, address: str) -> float:
        """How long until another wrong token may come from there; 0 when it may."""
        source = self._sources.get(self._key(address))
        return 0.0 if source is None else max(0.0, source.until_s - self._clock())

    def failed(self, address: str) -> None:
        """A token from there was wrong."""
        now = self._clock()
        self._forget(now)
        source = self._sources.setdefault(self._key(address), _Source(0, now, now))
        source.failures += 1
        source.last_s = now
        if source.failures >= self._free:
            doublings = min(source.failures - self._free, 16)
            source.until_s = now + min(FIRST_WAIT_S * 2**doublings, self._longest_wait_s)

    def _key(self, address: str) -> str:
        key = _network(address)
        if key in self._sources or len(self._sources) < self._max_sources:
            return key
        return _OTHERS

    def _forget(self, now: float) -> None:
        # In the order of their last failure it would be quicker; but this is a thousand at most,
        # and only when a token was wrong.
        self._sources = {
            key: one for key, one in self._sources.items() if now - one.last_s < FORGOTTEN_AFTER_S
        }


@dataclass(frozen=True, slots=True)
class Rate:
    """So many at once, and so many a second after that."""

    burst: int
    per_second: float


@dataclass(slots=True)
class _Bucket:
    level: float
    at_s: float

    def wait_s(self, rate: Rate, now: float) -> float:
        """Fill it up to now; how long until there is one to take."""
        grown = (now - self.at_s) * rate.per_second
        self.level = min(float(rate.burst), self.level + max(0.0, grown))
        self.at_s = now
        return max(0.0, (1.0 - self.level) / rate.per_second)


class Pace:
    """Bounds calls, for each address and in all.

    Args:
        clock: seconds that only go forward.
    """

    def __init__(
        self,
        *,
        each: Rate,
        in_all: Rate,
        max_sources: int = MAX_SOURCES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._each = each
        self._in_all = in_all
        self._max_sources = max_sources
        self._clock = clock
        self._all = _Bucket(float(in_all.burst), clock())
        self._sources: dict[str, _Bucket] = {}

    def take(self, address: str) -> float:
        """Take one call; how long to wait when there is none, and then nothing was taken."""
        now = self._clock()
        own = self._bucket(_network(address), now)
        wait_s = max(own.wait_s(self._each, now), self._all.wait_s(self._in_all, now))
        if wait_s <= 0:
            own.level -= 1
            self._all.level -= 1
        return wait_s

    def _bucket(self, key: str, now: float) -> _Bucket:
        if key not in self._sources and len(self._sources) >= self._max_sources:
            # A full one tells nothing that a new one wouldn't.
            full_s = self._each.burst / self._each.per_second
            self._sources = {k: b for k, b in self._sources.items() if now - b.at_s < full_s}
            if len(self._sources) >= self._max_sources:
                key = _OTHERS
        if (found := self._sources.get(key)) is None:
            found = self._sources[key] = _Bucket(float(self._each.burst), now)
        return found


def _network(address: str) -> str:
    """The address itself; of IPv6 its /64, of which one host may have every address."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
