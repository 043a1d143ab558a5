"""What a provider served against what was recorded and billed, request by request. Pure.

A *served* request is one that the provider has accepted, whether or not anybody saw its end. It is
joined with its records by ``x-request-id``; Zion's ledger is joined with items by idempotency key.
Each served request must have exactly one record, and its *fate* follows from the two:

==========  ================================  ====================================================
fate        when                              what must hold
==========  ================================  ====================================================
exact       the record bills the provider's   record = served, requests and tokens
            word
partial     nobody saw the provider's word:   record = prompt and what was streamed: one request,
            client left, drained, or cut      the prompt, output <= served output; the rest of it
                                              is *unseen*
unknown     the sidecar died under it         the record bills nothing; served is *unknown*
==========  ================================  ====================================================

A record of an answer that came to its end must be exact: the stand-in always reports usage. A
record without a served request is right only where the request may never have reached the provider
(the client left, or the sidecar died, just as it was let through); what it bills is *unsent*.

Then for each user, in requests, input tokens and output tokens alike:

    served + unsent = billed + dead letters + parked + unknown + unseen

where *billed* takes every idempotency key of Zion's ledger once, and what it has counts as billed
even if the sidecar, which never got an answer, holds the item for a person. Entries that repeat a
key are *doubled*: none with de-duplication on; with it off not more of them than items that the
sidecar called ambiguous.

Whoever saw the end of an answer can rely on its record: it is never unknown or lost.

Amounts are made to differ by the load, so that a lost record can't hide behind another's double.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from sentinel_extproc.demo.billing import Amounts
from sentinel_extproc.usage.record import Outcome, Provenance

NOTHING = Amounts()
UNKNOWN = "unknown"
"""The outcome of an exchange that nobody saw the end of."""


@dataclass(frozen=True, slots=True)
class Served:
    """A request that the provider accepted; ``amounts`` is what it charges for it.

    Attributes:
        seen: the client saw the answer's end.
    """

    request_id: str
    user: str
    amounts: Amounts
    seen: bool = False


@dataclass(frozen=True, slots=True)
class Recorded:
    """A record of the ledger."""

    request_id: str
    user: str
    amounts: Amounts
    provenance: str
    outcome: str


@dataclass(frozen=True, slots=True)
class Item:
    """A sum that Zion was billed for, or that waits for a person, by its idempotency key."""

    key: str
    user: str
    amounts: Amounts


class Fault(StrEnum):
    """What can be wrong."""

    LOST = "lost"
    """Served, and no record tells of it."""
    RECORDED_TWICE = "recorded twice"
    NOT_SERVED = "not served"
    """Recorded as if the provider had answered, which it never did."""
    WRONG_USER = "wrong user"
    WRONG_AMOUNT = "wrong amount"
    BILLED_TWICE = "billed twice"
    NOT_DURABLE = "not durable"
    """The client saw the end of the answer, and the record doesn't know of it."""
    NOT_BALANCED = "not balanced"


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault; ``about`` is a request id, an idempotency key or a user."""

    fault: Fault
    about: str
    detail: str


@dataclass(slots=True)
class Account:
    """One user's sums; see the module's docstring."""

    served: Amounts = NOTHING
    unsent: Amounts = NOTHING
    billed: Amounts = NOTHING
    held: Amounts = NOTHING
    unknown: Amounts = NOTHING
    unseen: Amounts = NOTHING
    doubled: Amounts = NOTHING

    @property
    def difference(self) -> Amounts:
        """What is missing from the right side of the equation; negative: what is too much."""
        return self.served + self.unsent - self.billed - self.held - self.unknown - self.unseen


@dataclass(slots=True)
class Report:
    """The outcome.

    Attributes:
        fates: requests by what became of them.
        doubled_items: entries of Zion's ledger that repeat a key.
        held_though_billed: items that wait for a person because nobody knew, and were billed.
    """

    accounts: dict[str, Account] = field(default_factory=lambda: defaultdict(Account))
    findings: list[Finding] = field(default_factory=list)
    fates: Counter[str] = field(default_factory=Counter)
    doubled_items: int = 0
    held_though_billed: int = 0


def reconcile(
    served: Iterable[Served],
    recorded: Iterable[Recorded],
    billed: Sequence[Item],
    held: Sequence[Item],
    *,
    ambiguous: int | None = None,
) -> Report:
    """Compare it all.

    Args:
        billed: Zion's ledger, entry by entry.
        held: dead letters and parked items that the sidecar keeps for a person.
        ambiguous: items that the sidecar called ambiguous, where Zion doesn't know items again;
            None where it does, so that nothing may be doubled.
    """
    report = Report()
    _requests(report, served, recorded)
    _items(report, billed, held, ambiguous=ambiguous)
    for user, account in report.accounts.items():
        if account.difference != NOTHING:
            report.findings.append(Finding(Fault.NOT_BALANCED, user, str(account.difference)))
    return report


def _requests(report: Report, served: Iterable[Served], recorded: Iterable[Recorded]) -> None:
    records: dict[str, list[Recorded]] = {}
    for record in recorded:
        records.setdefault(record.request_id, []).append(record)
    for one in served:
        report.accounts[one.user].served += one.amounts
        found = records.pop(one.request_id, [])
        if not found:
            report.fates["lost"] += 1
            report.findings.append(Finding(Fault.LOST, one.request_id, str(one)))
        if len(found) > 1:
            report.findings.append(Finding(Fault.RECORDED_TWICE, one.request_id, str(found)))
        for record in found[:1]:
            _request(report, one, record)
    for request_id, left in records.items():
        for record in left:
            _unsent(report, request_id, record)


def _request(report: Report, served: Served, record: Recorded) -> None:
    account = report.accounts[served.user]
    if record.user != served.user:
        report.findings.append(Finding(Fault.WRONG_USER, served.request_id, record.user))
    if record.outcome == UNKNOWN:
        report.fates["unknown"] += 1
        account.unknown += served.amounts
        if served.seen:
            report.findings.append(Finding(Fault.NOT_DURABLE, served.request_id, str(record)))
        right = record.amounts == NOTHING
    elif record.provenance == Provenance.PROVIDER or record.outcome == Outcome.COMPLETED:
        report.fates["exact"] += 1
        right = record.amounts == served.amounts
    else:
        report.fates["partial"] += 1
        unseen = served.amounts - record.amounts
        account.unseen += unseen
        right = unseen.requests == 0 and unseen.input_tokens == 0 and unseen.output_tokens >= 0
    if not right:
        detail = f"served {served.amounts}, recorded {record}"
        report.findings.append(Finding(Fault.WRONG_AMOUNT, served.request_id, detail))


def _unsent(report: Report, request_id: str, record: Recorded) -> None:
    report.fates["unsent"] += 1
    report.accounts[record.user].unsent += record.amounts
    if record.outcome in (UNKNOWN, Outcome.DISCONNECTED):
        return
    report.findings.append(Finding(Fault.NOT_SERVED, request_id, str(record)))


def _items(
    report: Report, billed: Sequence[Item], held: Sequence[Item], *, ambiguous: int | None
) -> None:
    first: dict[str, Item] = {}
    for item in billed:
        account = report.accounts[item.user]
        if item.key not in first:
            first[item.key] = item
            account.billed += item.amounts
            continue
        report.doubled_items += 1
        account.doubled += item.amounts
        if ambiguous is None:
            report.findings.append(Finding(Fault.BILLED_TWICE, item.key, str(item)))
        elif item != first[item.key]:
            detail = f"{first[item.key]}, then {item}"
            report.findings.append(Finding(Fault.WRONG_AMOUNT, item.key, detail))
    if ambiguous is not None and report.doubled_items > ambiguous:
        detail = f"{report.doubled_items} items, of which {ambiguous} were called ambiguous"
        report.findings.append(Finding(Fault.BILLED_TWICE, "in all", detail))
    for item in held:
        if item.key in first:
            report.held_though_billed += 1
        else:
            report.accounts[item.user].held += item.amounts
