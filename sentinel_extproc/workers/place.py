"""What one worker is told of itself."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

from sentinel_extproc.workers.lifeline import Lifeline


@dataclass(frozen=True, slots=True)
class Place:
    """One worker among several.

    Attributes:
        index: from 0; ``count`` of them.
        address: where Envoy finds it, as in ``server.listen``.
        listening: the socket there, which outlives this process.
        admin: ``unix:/path`` for the admin port of all, to ask this worker.
        counts, past: files for what it counted, and for what it remembers.
        successor: whether another had this place before. The settings it is given may be older than
            those that the others have reloaded since.
    """

    index: int
    count: int
    address: str
    listening: socket.socket
    lifeline: Lifeline
    admin: str
    counts: Path
    past: Path
    successor: bool
