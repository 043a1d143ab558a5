"""The store in this process: for tests, for a single sidecar, and as the ladder's local rung."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from ..kinds import State, opened
from ..model import Epoch
from . import Claim, Decision, Line, LineVerdict, StoreError, Verdict, owner_tag


@dataclass(slots=True)
class _Record:
    """``holds`` is None once settled."""

    holds: list[object] | None
    expires_ms: int


class MemoryStore:
    """Counts in memory, bounded.

    Args:
        clock: the time in ms since the epoch; should never go back, and may.
        max_entries: of states and of records each; when nothing has expired and more are needed,
            the store is unavailable rather than forgetful.
        record_ttl_s, settled_ttl_s: as for ``RedisStore``.
    """

    def __init__(
        self,
        clock: Callable[[], int],
        *,
        max_entries: int = 100_000,
        record_ttl_s: float = 600.0,
        settled_ttl_s: float = 300.0,
    ) -> None:
        self._clock = clock
        self._max_entries = max_entries
        self._record_ttl = round(record_ttl_s * 1000)
        self._settled_ttl = round(settled_ttl_s * 1000)
        self._states: dict[tuple[str, str], State] = {}
        self._records: dict[tuple[str, str], _Record] = {}
        self._expiry: list[tuple[int, bool, tuple[str, str]]] = []
        self._epochs: dict[tuple[str, str], int] = {}

    async def start(self) -> None:
        """Memory does nothing in the background."""

    async def reserve(self, claim: Claim) -> Verdict:
        """See ``Store.reserve``."""
        now = self._clock()
        if any(self._epoch(claim.owner, epoch.name) > epoch.seen for epoch in claim.epochs):
            return Verdict(Decision.REVOKED, now)
        states = self._open(claim, now)
        record = self._record(claim, now)
        if record is not None:
            over = record.holds is None
            fits = [True] * len(states)
            return _verdict(Decision.OVER if over else Decision.ADMITTED, now, claim, states, fits)
        fits = [
            line.amount == 0 or line.amount <= state.room()
            for line, state in zip(claim.lines, states, strict=True)
        ]
        if not _admitted(claim.lines, fits):
            return _verdict(Decision.DENIED, now, claim, states, fits)
        self._make_room(now, claim, states=len(states), records=1)
        holds = [
            state.take(None, line.amount) for line, state in zip(claim.lines, states, strict=True)
        ]
        self._save(claim.owner, zip(claim.lines, states, strict=True))
        self._put_record(claim, holds, now + self._record_ttl)
        return _verdict(Decision.ADMITTED, now, claim, states, fits)

    async def extend(self, claim: Claim) -> Verdict:
        """See ``Store.extend``."""
        now = self._clock()
        record = self._record(claim, now)
        if record is not None and record.holds is None:
            return Verdict(Decision.OVER, now)
        states = self._open(claim, now)
        holds: list[object | None] = [None] * len(states)
        if record is not None and record.holds is not None:
            holds = list(record.holds)
        more = [
            max(0, line.amount if hold is None else state.lacking(hold, line.amount))
            for line, state, hold in zip(claim.lines, states, holds, strict=True)
        ]
        fits = [part == 0 or part <= state.room() for part, state in zip(more, states, strict=True)]
        admitted = _admitted(claim.lines, fits)
        if admitted or record is not None:
            self._make_room(now, claim, states=len(states), records=1)
            taken = [
                state.take(hold, part if admitted else 0)
                for state, hold, part in zip(states, holds, more, strict=True)
            ]
            self._save(claim.owner, zip(claim.lines, states, strict=True))
            self._put_record(claim, taken, now + self._record_ttl)
        decision = Decision.ADMITTED if admitted else Decision.DENIED
        return _verdict(decision, now, claim, states, fits, more)

    async def settle(self, claim: Claim) -> None:
        """See ``Store.settle``."""
        now = self._clock()
        record = self._record(claim, now)
        if record is not None and record.holds is None:
            return
        # What is known can always be settled; only debt of strangers needs room.
        strange = 0 if record else 1
        self._make_room(now, claim, states=len(claim.lines) * strange, records=strange)
        states = self._open(claim, now)
        changed: list[tuple[Line, State]] = []
        for index, (line, state) in enumerate(zip(claim.lines, states, strict=True)):
            if record is not None and record.holds is not None:
                state.settle(record.holds[index], line.amount)
            elif line.amount > 0:
                state.charge(line.amount, claim.at_ms)
            else:
                continue
            changed.append((line, state))
        self._save(claim.owner, changed)
        self._put_record(claim, None, now + self._settled_ttl)

    async def epochs(self, external_id: str, names: tuple[str, ...]) -> tuple[Epoch, ...]:
        """The revocation epochs as they stand."""
        owner = owner_tag(external_id)
        return tuple(Epoch(name, self._epoch(owner, name)) for name in names)

    async def revoke(self, external_id: str, name: str) -> None:
        """Move one of a user's epochs forward."""
        self._bump(owner_tag(external_id), name)

    async def revoke_everybody(self) -> None:
        """Move the epoch ``all`` forward."""
        self._bump("", "all")

    async def ping(self) -> None:
        """Memory always answers."""

    async def close(self) -> None:
        """Nothing is held open."""

    def snapshot(self) -> Mapping[tuple[str, str], State]:
        """The states by (owner, line key), as last changed; for tests and inspection."""
        return dict(self._states)

    def _open(self, claim: Claim, now: int) -> list[State]:
        return [opened(line, self._state(claim.owner, line.key, now), now) for line in claim.lines]

    def _state(self, owner: str, key: str, now: int) -> State | None:
        state = self._states.get((owner, key))
        return None if state is None or state.expires_ms() <= now else state

    def _record(self, claim: Claim, now: int) -> _Record | None:
        record = self._records.get((claim.owner, claim.id))
        return None if record is None or record.expires_ms <= now else record

    def _save(self, owner: str, changed: Iterable[tuple[Line, State]]) -> None:
        for line, state in changed:
            key = (owner, line.key)
            if key not in self._states:
                heapq.heappush(self._expiry, (state.expires_ms(), False, key))
            self._states[key] = state

    def _put_record(self, claim: Claim, holds: list[object] | None, expires_ms: int) -> None:
        key = (claim.owner, claim.id)
        if key not in self._records:
            heapq.heappush(self._expiry, (expires_ms, True, key))
        self._records[key] = _Record(holds, expires_ms)

    def _make_room(self, now: int, claim: Claim, *, states: int, records: int) -> None:
        # One heap entry per stored key: what was renewed since goes back with its new time.
        while self._expiry and self._expiry[0][0] <= now:
            _, is_record, key = heapq.heappop(self._expiry)
            record = self._records[key] if is_record else None
            expires = record.expires_ms if record else self._states[key].expires_ms()
            if expires > now:
                heapq.heappush(self._expiry, (expires, is_record, key))
            elif is_record:
                del self._records[key]
            else:
                del self._states[key]
        if records and (claim.owner, claim.id) in self._records:
            return
        if (
            len(self._states) + states > self._max_entries
            or len(self._records) + records > self._max_entries
        ):
            raise StoreError("the in-process store is full")

    def _epoch(self, owner: str, name: str) -> int:
        return self._epochs.get(("" if name == "all" else owner, name), 0)

    def _bump(self, owner: str, name: str) -> None:
        self._epochs[owner, name] = max(self._clock(), self._epochs.get((owner, name), 0) + 1)


def _admitted(lines: tuple[Line, ...], fits: list[bool]) -> bool:
    return all(fit or line.limit.shadow for line, fit in zip(lines, fits, strict=True))


def _verdict(
    decision: Decision,
    now: int,
    claim: Claim,
    states: list[State],
    fits: list[bool],
    amounts: list[int] | None = None,
) -> Verdict:
    wanted = [line.amount for line in claim.lines] if amounts is None else amounts
    return Verdict(
        decision,
        now,
        tuple(
            LineVerdict(
                fits=fit,
                remaining=max(0, state.room()),
                reset_ms=state.reset_ms(),
                wait_ms=0 if fit else state.wait_ms(amount),
            )
            for state, fit, amount in zip(states, fits, wanted, strict=True)
        ),
    )
