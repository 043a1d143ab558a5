"""How often wrong admin tokens may be tried at the log-in form. Pure.

A few are free, for people who mistype; after that whoever comes from that address waits, twice as
long each time, up to a minute. Addresses beyond those that are remembered share one wait, so that
neither memory nor the number of guesses grows with the number of addresses.
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


class LoginThrottle:
    """Counts wrong tokens by where they come from.

    Args:
        clock: seconds that only go forward.
    """

    def __init__(
        self, *, max_sources: int = MAX_SOURCES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_sources = max_sources
        self._clock = clock
        self._sources: dict[str, _Source] = {}

    def wait_s(self, address: str) -> float:
        """How long a client must wait before a token of its is looked at; 0 when it needn't."""
        source = self._sources.get(self._key(address))
        return 0.0 if source is None else max(0.0, source.until_s - self._clock())

    def failed(self, address: str) -> None:
        """A token from there was wrong."""
        now = self._clock()
        self._forget(now)
        source = self._sources.setdefault(self._key(address), _Source(0, now, now))
        source.failures += 1
        source.last_s = now
        if source.failures >= FREE:
            doublings = min(source.failures - FREE, 16)
            source.until_s = now + min(FIRST_WAIT_S * 2**doublings, LONGEST_WAIT_S)

    def succeeded(self, address: str) -> None:
        """Somebody there has the token; what others share stays."""
        key = self._key(address)
        if key != _OTHERS:
            self._sources.pop(key, None)

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
