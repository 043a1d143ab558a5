"""What was used against what Zion was billed, line by line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote

import httpx

from sentinel_extproc.demo.zion_standin import ZionStandIn

_TIMEOUT_S = 10.0
_METRICS = ("aiRequests", "aiInputTokens", "aiOutputTokens")


@dataclass(frozen=True, slots=True)
class Amounts:
    """Requests and tokens."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def __add__(self, other: Amounts) -> Amounts:
        return Amounts(
            self.requests + other.requests,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
        )

    def __sub__(self, other: Amounts) -> Amounts:
        return Amounts(
            self.requests - other.requests,
            self.input_tokens - other.input_tokens,
            self.output_tokens - other.output_tokens,
        )


@dataclass(frozen=True, slots=True)
class Line:
    """What one line of a bill is for; ``model`` is empty where Zion doesn't tell models apart."""

    external_id: str
    model: str


Bill = dict[Line, Amounts]


def total(items: Iterable[tuple[Line, Amounts]]) -> Bill:
    """One line for each user and model."""
    bill: Bill = {}
    for line, amounts in items:
        bill[line] = bill.get(line, Amounts()) + amounts
    return bill


class BillSource(Protocol):
    """Where the bill can be read."""

    by_model: bool

    def read(self) -> Bill:
        """What was billed since the scenario began."""
        ...


class LedgerBill:
    """The stand-in Zion's own ledger.

    Args:
        aliases: names that the provider answers with, by the name that was asked for: a bill
            under either is the same line.
    """

    by_model = True

    def __init__(self, zion: ZionStandIn, *, aliases: Mapping[str, str]) -> None:
        self._zion = zion
        self._requested = {served: requested for requested, served in aliases.items()}
        self._before = len(zion.ledger())

    def read(self) -> Bill:
        """See `BillSource.read`."""
        return total(
            (
                Line(entry.external_id, self._requested.get(entry.model or "", entry.model or "")),
                Amounts(entry.requests, entry.input_tokens, entry.output_tokens),
            )
            for entry in self._zion.ledger()[self._before :]
        )


class UsedBill:
    """What a real Zion says a user has used, less what that was before the scenario.

    Raises:
        httpx.HTTPError: Zion doesn't answer, or not with a 2xx.
        LookupError: the profile has no external id, or the limits aren't of the contract's shape.
    """

    by_model = False

    def __init__(self, *, url: str, api_key: str, token: str) -> None:
        self._url = url
        self._api_key = api_key
        me = httpx.get(
            f"{url}/api/v1/users/me",
            headers={"authorization": f"Bearer {token}"},
            timeout=_TIMEOUT_S,
        )
        self._external_id = str(me.raise_for_status().json()["data"]["externalId"])
        self._before = self._used()

    @property
    def external_id(self) -> str:
        """Whose usage this is."""
        return self._external_id

    def read(self) -> Bill:
        """See `BillSource.read`."""
        return {Line(self._external_id, ""): self._used() - self._before}

    def _used(self) -> Amounts:
        answer = httpx.get(
            f"{self._url}/api/v1/limits/external/{quote(self._external_id, safe='')}",
            headers={"x-api-key": self._api_key},
            timeout=_TIMEOUT_S,
        )
        limit = answer.raise_for_status().json()["data"]["limits"][0]
        return Amounts(*(int(limit[metric]["used"]) for metric in _METRICS))
