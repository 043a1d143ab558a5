"""What Envoy's access log tells of answers that it metered itself: who waits for it, who learns."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from sentinel_extproc.exchange.native import BytesPerToken
from sentinel_extproc.usage.record import Provenance, UsageRecord

WAIT_S = 5.0
"""Envoy sends its log every tenth of a second as it is rendered; a lost entry must not hold the
bill up for long."""

_MAX_FINISHED = 2000
_MAX_EARLY = 1000


class LogWaits:
    """Exchanges that ended without a word on their usage, until their log entry comes.

    Args:
        learns: is told how long whole answers were; None: native metering is off.
    """

    def __init__(self, learns: BytesPerToken | None) -> None:
        self._learns = learns
        self._waiting: dict[str, asyncio.Future[int | None]] = {}
        self._finished: OrderedDict[str, tuple[str, int]] = OrderedDict()
        self._early: OrderedDict[str, int] = OrderedDict()
        self._given_up = False

    async def wait(self, exchange_id: str) -> int | None:
        """Bytes of the answer's body that the client got; None when nobody tells in time."""
        if exchange_id in self._early:
            return self._early.pop(exchange_id)
        if self._given_up:
            return None
        told: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._waiting[exchange_id] = told
        try:
            async with asyncio.timeout(WAIT_S):
                return await told
        except TimeoutError:
            return None
        finally:
            self._waiting.pop(exchange_id, None)

    def finished(self, record: UsageRecord, *, unseen: bool) -> None:
        """An exchange has its record; its log entry will come, and can teach something.

        Args:
            unseen: Envoy metered it. Other answers may be far shorter for as many tokens.
        """
        if self._learns is None or not unseen or record.provenance is not Provenance.PROVIDER:
            return
        self._finished[record.id] = (record.model_requested, record.usage.output_tokens)
        if len(self._finished) > _MAX_FINISHED:
            self._finished.popitem(last=False)

    def tell(self, exchange_id: str, body_bytes: int) -> None:
        """A log entry came."""
        told = self._waiting.get(exchange_id)
        if told is not None and not told.done():
            told.set_result(body_bytes)
        elif self._learns is not None and exchange_id in self._finished:
            model, tokens = self._finished.pop(exchange_id)
            self._learns.learn(model, body_bytes, tokens)
        elif told is None:
            # A full buffer sends Envoy's log before the end of the exchange that it is about.
            self._early[exchange_id] = body_bytes
            if len(self._early) > _MAX_EARLY:
                self._early.popitem(last=False)

    def give_up(self) -> None:
        """We are stopping: who waits is to go on with what is known."""
        self._given_up = True
        for told in self._waiting.values():
            if not told.done():
                told.set_result(None)
