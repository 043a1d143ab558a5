"""The books of a soak: what provider, ledger and Zion have written down."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sentinel_extproc.demo.billing import Amounts
from sentinel_extproc.demo.openai_records import SeenRequest
from sentinel_extproc.demo.openai_records import Served as Answer
from sentinel_extproc.demo.zion_state import LedgerEntry
from tests.faults.reconcile import Item, Recorded, Served


@dataclass(slots=True)
class Provider:
    """What the stand-in provider wrote, kept beyond its own bound."""

    requests: dict[str, SeenRequest] = field(default_factory=dict)
    answers: dict[str, Answer] = field(default_factory=dict)

    def note(self, requests: Iterable[SeenRequest], answers: Iterable[Answer]) -> None:
        """Take over what is new."""
        for request in requests:
            if request.authorized and request.method == "POST":
                self.requests[request.header("x-request-id") or ""] = request
        for answer in answers:
            self.answers[answer.request_id or ""] = answer

    def served(self, seen: set[str]) -> list[Served]:
        """Every request that it took.

        One that it took and was cut off from before it began to answer costs a request, and no
        tokens that anybody could name.

        Args:
            seen: exchange ids of answers whose end the client saw.
        """
        made = []
        for request_id, request in self.requests.items():
            amounts = Amounts(1)
            if (answer := self.answers.get(request_id)) is not None:
                amounts = Amounts(1, answer.prompt_tokens, answer.completion_tokens)
            exchange_id = request.header("x-sentinel-exchange-id") or ""
            user = request.header("x-sentinel-user") or ""
            made.append(Served(request_id, user, amounts, exchange_id in seen))
        return made


@dataclass(frozen=True, slots=True)
class Outbox:
    """Reads the sidecar's file from outside, whether or not a sidecar runs."""

    path: Path

    def left(self) -> int:
        """Records not sealed, and items that are neither billed nor held."""
        return self._number(
            "SELECT (SELECT count(*) FROM records WHERE seq > (SELECT sealed_seq FROM ledger))"
            " + (SELECT count(*) FROM items WHERE state NOT IN ('done', 'parked', 'dead'))"
        )

    def deleted(self) -> int:
        """Runs of records that were deleted: then the books can't be read any more."""
        return self._number("SELECT count(*) FROM gaps")

    def recorded(self) -> list[Recorded]:
        """Every record."""
        rows = self._rows(
            "SELECT request_id, external_id, requests, input_tokens, output_tokens, provenance,"
            " outcome FROM records ORDER BY seq"
        )
        return [Recorded(row[0] or "", row[1], Amounts(*row[2:5]), row[5], row[6]) for row in rows]

    def held(self) -> list[Item]:
        """Dead letters and parked items."""
        rows = self._rows(
            "SELECT id, external_id, requests, input_tokens, output_tokens FROM items"
            " WHERE state IN ('parked', 'dead') ORDER BY n"
        )
        return [Item(row[0], row[1], Amounts(*row[2:5])) for row in rows]

    def _number(self, statement: str) -> int:
        return int(self._rows(statement)[0][0])

    def _rows(self, statement: str) -> list[tuple[Any, ...]]:
        uri = f"{self.path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=5.0)) as connection:
            return connection.execute(statement).fetchall()


def billed(entries: Iterable[LedgerEntry]) -> list[Item]:
    """Zion's ledger."""
    return [
        Item(
            entry.key or "",
            entry.external_id,
            Amounts(entry.requests, entry.input_tokens, entry.output_tokens),
        )
        for entry in entries
    ]
