"""The connections of one server: how many there are, and what their messages take up together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sentinel_extproc.transport.http2.budget import Budget

if TYPE_CHECKING:
    from sentinel_extproc.transport.http2.protocol import Http2Protocol

MAX_CONNECTIONS = 4096
"""Envoy keeps one for each of its worker threads, and one for health checks."""

MAX_WAITING_BYTES = 512 << 20
"""In messages that have yet to end or to be taken, over all connections."""


class Connections:
    """Live ones.

    Args:
        most: further ones are closed at once.

    Attributes:
        budget: what all of them may hold.
        leaving: the server ends: whoever still comes is told to go elsewhere.
        queued: messages that came and that no call has read yet, and other news of calls among
            them.
        gone: it has ended: whoever was still on the way in is told so and closed.
    """

    def __init__(self, most: int = MAX_CONNECTIONS, *, most_bytes: int = MAX_WAITING_BYTES) -> None:
        self._most = most
        self._live: set[Http2Protocol] = set()
        self.budget = Budget(most_bytes)
        self.queued = 0
        self.leaving = False
        self.gone = False
        self.refused = 0

    def __iter__(self) -> Iterator[Http2Protocol]:
        return iter(tuple(self._live))

    def __len__(self) -> int:
        return len(self._live)

    def admit(self, connection: Http2Protocol) -> bool:
        """Take one in; False when there are too many."""
        if len(self._live) >= self._most:
            self.refused += 1
            return False
        self._live.add(connection)
        return True

    def discard(self, connection: Http2Protocol) -> None:
        """It is gone."""
        self._live.discard(connection)
