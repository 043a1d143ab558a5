"""What the ledger's words mean, for somebody who hasn't read its manual. Pure.

Values stay as they are in JSON and in filters; people get their meaning beside them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Any

from sentinel_extproc.usage.record import Outcome, Provenance
from sentinel_extproc.usage_cli.columns import Delivery, Entry

FACTS = {
    "sidecar": "sidecar's id",
    "name": "sidecar's name",
    "head": "last record, as NUMBER:HASH",
    "records": "records ever written",
    "unstored_records": "ended, to be written by the sidecar or its next start",
    "unsealed_records": "written, not yet summed up for Zion",
    "billed_records_kept": "billed, kept for audit",
    "unknown_records": "end unknown, so never billed",
    "ready_items": "sums waiting to be sent",
    "sent_items": "sums being sent to Zion",
    "handed_items": "sums handed to Redis, for any sidecar to send",
    "parked_items": "sums that may be billed: a person must decide",
    "dead_items": "sums that Zion refused: a person must decide",
    "billed_items": "sums billed",
    "oldest_undelivered": "oldest usage not billed yet",
    "file_bytes": "size of the file in bytes",
}
"""What ``usage status`` calls its facts. A sum is what one user used of one model in a while."""

STATES = {
    Delivery.UNSEALED: "written; not yet summed up for Zion",
    Delivery.READY: "waits to be sent to Zion",
    Delivery.SENT: "being sent to Zion",
    Delivery.HANDED: "handed to Redis, for any sidecar to send",
    Delivery.PARKED: "Zion's answer was lost, so it may be billed; a person must decide",
    Delivery.DEAD: "Zion refused it for good; see usage dead-letters",
    Delivery.BILLED: "Zion has it",
    Delivery.UNKNOWN: "nobody saw how it ended, so it is never billed",
    Delivery.NOTHING: "there was nothing to bill",
}
PROVENANCES = {
    Provenance.PROVIDER: "the provider reported the tokens",
    Provenance.COUNTED: "Sentinel counted the text",
    Provenance.ESTIMATED: "Sentinel estimated it, where text can't be counted",
}
OUTCOMES = {
    Outcome.COMPLETED: "the answer came to its end",
    Outcome.PROVIDER_ERROR: "the provider failed, or answered with an error",
    Outcome.DISCONNECTED: "the client left before the end; billed as far as it went",
    Outcome.DRAINED: "the sidecar was shut down meanwhile; billed as far as it saw",
    Outcome.CUT: "ended by Sentinel, because a limit ran out or it was revoked",
    Outcome.UNKNOWN: "the sidecar died meanwhile",
}


class Legend:
    """Takes entries as they are shown, and explains the words that were in them."""

    def __init__(self) -> None:
        self._seen: set[tuple[type[StrEnum], StrEnum]] = set()

    def noting(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """The same entries."""
        for entry in entries:
            # With their kinds: UNKNOWN of one equals UNKNOWN of another.
            words = (entry.state, entry.record.provenance, entry.record.outcome)
            self._seen.update((type(word), word) for word in words)
            yield entry

    def lines(self) -> Iterator[str]:
        """One for each word that was shown, in a fixed order."""
        titled: tuple[tuple[str, Mapping[Any, str]], ...] = (
            ("state", STATES),
            ("numbers", PROVENANCES),
            ("ended", OUTCOMES),
        )
        for title, words in titled:
            for value, meaning in words.items():
                if (type(value), value) in self._seen:
                    yield f"{title} {value.value}: {meaning}"
