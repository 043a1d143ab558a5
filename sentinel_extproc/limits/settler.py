"""Applies settlements behind the answers they belong to, until the store takes them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections import deque
from functools import partial

from msgspec import Struct

from .facts import EmitLimitFact, SettlementApplied, SettlementDropped, emit_nothing
from .store import Claim, SettlesSoon, Store, StoreError, StoreUntriedError

log = logging.getLogger(__name__)

_BATCH = 32
"""Of those that are new, and as many again of those that were tried; and at once without a task."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 0.5

_Key = tuple[str, str]


class _Due(Struct):
    """``tried_s`` is when the store may first have taken it: from then on repeating is bounded.
    ``tried`` is there if somebody waits for the first attempt."""

    claim: Claim
    since_s: float
    tried_s: float | None = None
    tried: asyncio.Future[None] | None = None


class Settler:
    """A bounded queue of settlements in front of a store.

    Nearly always the store takes one at once, and its answer ends it, without a task. What it
    doesn't take is queued.

    What is new is tried without waiting for what the store refuses at the moment: while it is away,
    what was admitted without it is settled where it was counted, and somebody waits for that place.

    Args:
        store: takes each one once; repeating is harmless for ``give_up_s``.
        max_pending: beyond it the oldest is dropped: its hold heals by itself, over-counted.
        give_up_s: how long one is repeated; less than the store recognises repetitions. One that
            could not be tried yet waits for as long as it takes.
    """

    def __init__(
        self,
        store: Store,
        *,
        max_pending: int = 100_000,
        give_up_s: float = 240.0,
        emit: EmitLimitFact = emit_nothing,
    ) -> None:
        self._store = store
        self._settle_soon = store.settle_soon if isinstance(store, SettlesSoon) else None
        self._max_pending = max_pending
        self._give_up_s = give_up_s
        self._emit = emit
        self._sent: dict[_Key, _Due] = {}
        self._due: dict[_Key, _Due] = {}
        self._new: deque[_Key] = deque(maxlen=max_pending)
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def pending(self) -> int:
        """Settlements that are not applied yet."""
        return len(self._due) + len(self._sent)

    def submit(self, claim: Claim) -> None:
        """Take a settlement over; returns at once. Needs a running event loop."""
        if len(self._due) >= self._max_pending:
            self._due.pop(next(iter(self._due)))
            self._drop("too many wait")
        key = (claim.owner, claim.id)
        if key in self._due or key in self._sent:
            return
        due = _Due(claim, time.monotonic())
        self._idle.clear()
        if (
            self._settle_soon is not None
            and len(self._sent) < _BATCH
            and self._settle_soon(claim, partial(self._answered, key))
        ):
            self._sent[key] = due
        else:
            self._queue(key, due)

    def _queue(self, key: _Key, due: _Due) -> None:
        self._due[key] = due
        self._new.append(key)
        self._wake.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="limits-settler")

    def _answered(self, key: _Key, error: Exception | None) -> None:
        """The store has said something to what it was sent without a task."""
        due, now_s = self._sent.pop(key), time.monotonic()
        if due.tried is not None and not due.tried.done():
            due.tried.set_result(None)
        if error is None:
            self._emit(SettlementApplied(due.claim.id, now_s - due.since_s))
        elif not isinstance(error, StoreError):
            self._drop(repr(error))
        elif not self._closed:
            if not isinstance(error, StoreUntriedError):
                due.tried_s = now_s
            self._queue(key, due)
            return
        if not self._sent and not self._due:
            self._idle.set()

    async def tried(self, claim: Claim, *, within_s: float) -> None:
        """Return when the store was asked to take a settlement, or after ``within_s``."""
        key = (claim.owner, claim.id)
        due = self._sent.get(key) or self._due.get(key)
        if due is None:
            return
        if due.tried is None:
            due.tried = asyncio.get_running_loop().create_future()
        await asyncio.wait((due.tried,), timeout=within_s)

    async def flush(self) -> None:
        """Return when nothing is pending."""
        await self._idle.wait()

    async def close(self, *, timeout_s: float) -> None:
        """Flush for at most ``timeout_s``, then stop."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self.flush()
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _run(self) -> None:
        pause_s, again_s = _FIRST_PAUSE_S, 0.0
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._due:
                now_s = time.monotonic()
                again = now_s >= again_s
                if not again and not self._new:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(again_s - now_s):
                            await self._wake.wait()
                    self._wake.clear()
                elif await self._settle_some(again=again):
                    pause_s, again_s = _FIRST_PAUSE_S, 0.0
                elif again:
                    again_s = time.monotonic() + pause_s
                    pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
            if not self._sent:
                self._idle.set()

    def _next(self, *, again: bool) -> list[tuple[_Key, _Due]]:
        """Those that are new and, if they are to be tried again, those that waited longest."""
        keys: dict[_Key, None] = {}
        while self._new and len(keys) < _BATCH:
            keys[self._new.popleft()] = None
        if again:
            keys.update(dict.fromkeys(itertools.islice(self._due, _BATCH)))
        return [(key, self._due[key]) for key in keys if key in self._due]

    async def _settle_some(self, *, again: bool) -> bool:
        batch = self._next(again=again)
        results = await asyncio.gather(
            *(self._store.settle(due.claim) for _, due in batch), return_exceptions=True
        )
        now_s, some_taken = time.monotonic(), False
        for (key, due), result in zip(batch, results, strict=True):
            self._due.pop(key, None)
            if due.tried is not None and not due.tried.done():
                due.tried.set_result(None)
            if result is None:
                some_taken = True
                self._emit(SettlementApplied(due.claim.id, now_s - due.since_s))
                continue
            if not isinstance(result, StoreUntriedError) and due.tried_s is None:
                due.tried_s = now_s
            if due.tried_s is not None and now_s - due.tried_s > self._give_up_s:
                self._drop(str(result))
            elif isinstance(result, StoreError):
                # Last in the queue: what one shard refuses must not hold up the others.
                self._due[key] = due
            else:
                self._drop(repr(result))
        return some_taken

    def _drop(self, reason: str) -> None:
        log.error("a settlement was dropped; its hold will lapse by itself: %s", reason)
        self._emit(SettlementDropped(reason))
