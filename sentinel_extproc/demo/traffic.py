"""A gentle stream of sample calls, so that there is something to see while the demo stays up.

Only ever against the stand-ins: with the real services each call would be paid for. It has users of
its own, so that those of the scenario keep their limits, and it ends by itself.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from typing import Any, Self

import httpx

from sentinel_extproc.demo.zion_state import ZionUser

EVERY_S = 1.5
MOST = 2400
"""An hour of them."""

_CALL_TIMEOUT_S = 20.0

SAMPLE_USERS = tuple(
    ZionUser(f"sample-{name}", f"u-{name}", f"ext-{name}", f"{name}@example.com", name.title())
    for name in ("cleo", "dan", "eve", "finn")
)

_STRANGER = "sample-nobody"
_WHO = ("cleo", "dan", "cleo", "eve", "finn", "cleo", "dan", "eve")
"""Who calls, in turn; Cleo so often that her limit of requests is reached now and then."""

_MODELS = ("gpt-4o-mini", "gpt-4o", "gpt-4o-mini", "gpt-5-mini", "gpt-4.1")
_LENGTHS = (24, 60, 12, 140, 40, 90, 8)
_STRANGER_EVERY = 23


@dataclass(frozen=True, slots=True)
class Call:
    """One sample call."""

    token: str
    path: str
    body: dict[str, Any]
    tokens: int

    @property
    def headers(self) -> dict[str, str]:
        """The caller's token, and how long the stand-in's answer is to be."""
        return {"authorization": f"Bearer {self.token}", "x-standin-tokens": str(self.tokens)}


def call(number: int) -> Call:
    """The ``number``-th call: chats, every other one streamed, and embeddings. Pure."""
    who = f"sample-{_WHO[number % len(_WHO)]}"
    token = _STRANGER if number % _STRANGER_EVERY == _STRANGER_EVERY - 1 else who
    length = _LENGTHS[number % len(_LENGTHS)]
    if number % 6 == 5:
        body: dict[str, Any] = {"model": "text-embedding-3-small", "input": f"sample {number}"}
        return Call(token, "/v1/embeddings", body, length)
    question = f"Sample question {number}: what does a sidecar do?"
    body = {
        "model": _MODELS[number % len(_MODELS)],
        "messages": [{"role": "user", "content": question}],
        "stream": number % 2 == 0,
    }
    return Call(token, "/v1/chat/completions", body, length)


class SampleTraffic:
    """Sends them one after the other, from a thread of its own, while it is entered.

    Args:
        url: the gateway's, without a path.
    """

    def __init__(self, url: str, *, every_s: float = EVERY_S, most: int = MOST) -> None:
        self._url = url
        self._every_s = every_s
        self._most = most
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sample-traffic", daemon=True)
        self.answered = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        self._thread.join(_CALL_TIMEOUT_S)

    def _run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=_CALL_TIMEOUT_S, trust_env=False) as client:
            for number in range(self._most):
                # A part that is away is told by whoever watches the parts.
                with contextlib.suppress(httpx.HTTPError):
                    self._send(client, call(number))
                if self._stop.wait(self._every_s):
                    return

    def _send(self, client: httpx.Client, one: Call) -> None:
        with client.stream("POST", one.path, json=one.body, headers=one.headers) as answer:
            for _ in answer.iter_raw():
                if self._stop.is_set():
                    return
        self.answered += 1
