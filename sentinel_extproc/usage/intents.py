"""Exchanges that are under way, in a file that outlives the process.

A slot is freed once the record of its exchange is durable. What is still there at the next start
are exchanges that nobody saw the end of.
"""

from __future__ import annotations

from operator import attrgetter
from pathlib import Path

from sentinel_extproc.usage import intent_slots
from sentinel_extproc.usage.record import Intent
from sentinel_extproc.usage.slot_file import SlotFile
from sentinel_extproc.usage.waiting import unavailable


class Intents(SlotFile[Intent]):
    """The intents file of one outbox. ``begin`` and ``end`` may come from two threads.

    Args:
        path: of the file.
        slots: exchanges under way at once; the file has a KiB for each.
    """

    def __init__(self, path: Path, *, slots: int) -> None:
        super().__init__(
            path,
            slots=slots,
            magic=b"SENTINT1",
            noun="intent",
            encode=intent_slots.encode,
            decode=intent_slots.decode,
            id_of=attrgetter("id"),
        )

    def begin(self, intent: Intent) -> None:
        """Take a slot for an exchange that is about to be forwarded.

        Raises:
            Unavailable: all are taken, or the file is closed.
        """
        if not self.put(intent.id, intent, intent_slots.encode(intent)):
            raise unavailable("Too many requests are under way; the request was not forwarded.")

    def under_way(self) -> list[Intent]:
        """Every exchange that has a slot now."""
        return self.values()
