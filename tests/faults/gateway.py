"""What tests of a whole stack ask of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from sentinel_extproc.demo.stack import Stack

DONE = b"data: [DONE]"
CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}


def eventually(check: Callable[[], bool], *, seconds: float = 30.0) -> None:
    """Poll until it holds."""
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


def metric(stack: Stack, name: str, /, **labels: str) -> float:
    """The sum over all series with these labels, from the admin port."""
    transport = httpx.HTTPTransport(uds=str(admin_socket(stack)))
    with httpx.Client(transport=transport, base_url="http://admin", timeout=30) as client:
        text = client.get("/metrics").text
    wanted = set(labels.items())
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and wanted <= set(sample.labels.items())
    )


def admin_socket(stack: Stack) -> Path:
    return Path(stack.sidecar.address.removeprefix("unix:")).with_name("admin.sock")


class Client:
    """One user of a stack; every answer's status is noted.

    Args:
        token: the user's.
    """

    def __init__(self, stack: Stack, http: httpx.Client, token: str = "demo-ada") -> None:
        self._http = http
        self._url = f"{stack.url}/v1/chat/completions"
        self._token = token

    def chat(self, **headers: str) -> httpx.Response:
        """A chat without a stream."""
        return self._http.post(self._url, json=CHAT, headers=self._headers(headers))

    @contextmanager
    def stream(self, tokens: int) -> Iterator[httpx.Response]:
        """A running stream of so many tokens, its headers read."""
        given = self._headers({"x-standin-tokens": str(tokens)})
        body = CHAT | {"stream": True}
        with self._http.stream("POST", self._url, json=body, headers=given) as answer:
            yield answer

    def _headers(self, more: dict[str, str]) -> dict[str, str]:
        return {"authorization": f"Bearer {self._token}"} | more


def billed_as_served(stack: Stack) -> bool:
    """Whether Zion's ledger has exactly what the provider served, in requests and in tokens."""
    assert stack.openai is not None
    assert stack.zion is not None
    served, billed = stack.openai.served(), stack.zion.ledger()
    return (
        len(served),
        sum(one.prompt_tokens for one in served),
        sum(one.completion_tokens for one in served),
    ) == (
        sum(row.requests for row in billed),
        sum(row.input_tokens for row in billed),
        sum(row.output_tokens for row in billed),
    )


def misbilled(stack: Stack, *, seconds: float = 30.0) -> int:
    """Requests that the provider served and Zion hasn't billed once, after a while; 1 at least if
    only tokens differ."""
    end = time.monotonic() + seconds
    while not billed_as_served(stack):
        if time.monotonic() > end:
            assert stack.openai is not None
            assert stack.zion is not None
            billed = sum(row.requests for row in stack.zion.ledger())
            return max(1, abs(len(stack.openai.served()) - billed))
        time.sleep(0.05)
    return 0


@contextmanager
def clients(stack: Stack, *tokens: str) -> Iterator[list[Client]]:
    """A client for each user, on connections that they share."""
    limits = httpx.Limits(max_connections=2000, max_keepalive_connections=2000)
    with httpx.Client(trust_env=False, timeout=60, limits=limits) as http:
        yield [Client(stack, http, token) for token in tokens]


@contextmanager
def streams(client: Client, count: int, *, tokens: int) -> Iterator[list[httpx.Response]]:
    """So many streams, all open at once."""
    with ExitStack() as open_ones:
        yield [open_ones.enter_context(client.stream(tokens)) for _ in range(count)]
