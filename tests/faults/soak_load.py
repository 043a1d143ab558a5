"""Load from several users, in a thread and event loop of its own, while everything else dies."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Self

import httpx

MODELS = ("gpt-4o-mini", "gpt-4o", "gpt-4.1-nano")
_SHARE_STREAMED = 0.7
_SHARE_LEAVING = 0.1
_LAST_EVENT = b"data: [DONE]\n\n"
_PAUSE_S = 0.2
"""After a refusal: without a sidecar Envoy refuses at once, and a busy loop would help nobody."""


class Load:
    """Workers that call without pause, each call with other amounts.

    Attributes:
        first_chunks: answers whose first bytes have arrived.
        statuses: of answers, and what ended the rest.
        seen: exchange ids of answers that came to their end, as far as a client can tell: by the
            last event of a stream, or by the length or end of the body.
    """

    def __init__(self, url: str, tokens: Sequence[str], *, seed: int, workers: int = 12) -> None:
        self._url = url
        self._tokens = tokens
        self._seed = seed
        self._workers = workers
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="soak-load", daemon=True)
        self.first_chunks = 0
        self.statuses: Counter[str] = Counter()
        self.seen: set[str] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def stop(self, timeout_s: float = 30.0) -> None:
        """Let running calls end, and start no more."""
        self._stopping.set()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise TimeoutError("calls didn't end")

    def _run(self) -> None:
        asyncio.run(self._work())

    async def _work(self) -> None:
        async with httpx.AsyncClient(base_url=self._url, trust_env=False, timeout=20.0) as client:
            await asyncio.gather(*(self._worker(client, n) for n in range(self._workers)))

    async def _worker(self, client: httpx.AsyncClient, number: int) -> None:
        chance = random.Random(f"{self._seed}/{number}")
        while not self._stopping.is_set():
            try:
                answered = await self._call(client, chance)
            except httpx.HTTPError as fault:
                self.statuses[type(fault).__name__] += 1
                answered = False
            if not answered:
                await asyncio.sleep(_PAUSE_S)

    async def _call(self, client: httpx.AsyncClient, chance: random.Random) -> bool:
        leaves_after = chance.randint(0, 5) if chance.random() < _SHARE_LEAVING else None
        words = " ".join(["word"] * chance.randint(1, 40))
        request = client.build_request(
            "POST",
            "/v1/chat/completions",
            json={
                "model": chance.choice(MODELS),
                "stream": chance.random() < _SHARE_STREAMED,
                "messages": [{"role": "user", "content": words}],
            },
            headers={
                "authorization": f"Bearer {chance.choice(self._tokens)}",
                "x-standin-tokens": str(chance.randint(1, 80)),
            },
        )
        answer = await client.send(request, stream=True)
        try:
            self.statuses[str(answer.status_code)] += 1
            pieces, tail = 0, b""
            async for piece in answer.aiter_raw():
                pieces += 1
                tail = (tail + piece)[-len(_LAST_EVENT) :]
                if tail == _LAST_EVENT:
                    self.seen.add(answer.headers["x-sentinel-exchange-id"])
                if pieces == 1:
                    self.first_chunks += 1
                if pieces == leaves_after:
                    return True
            if answer.status_code == httpx.codes.OK:
                self.seen.add(answer.headers["x-sentinel-exchange-id"])
            return answer.is_success
        finally:
            await answer.aclose()
