"""Every API of the stand-in through the real gateway: what it served is what is billed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from sentinel_extproc.demo.billing import Amounts
from sentinel_extproc.demo.stack import Stack

Call = Callable[[openai.OpenAI], Any]


@pytest.fixture
def client(stack: Stack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        api_key="demo-ada",
        base_url=f"{stack.url}/v1",
        max_retries=0,
        http_client=openai.DefaultHttpxClient(trust_env=False),
    ) as client:
        yield client


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda c: c.responses.create(model="gpt-4.1", input="hi"), id="response"),
        pytest.param(
            lambda c: list(c.responses.create(model="gpt-4.1", input="hi", stream=True)),
            id="response-stream",
        ),
        pytest.param(
            lambda c: c.completions.create(model="gpt-3.5-turbo-instruct", prompt=["a", "b"], n=2),
            id="completion",
        ),
        pytest.param(
            lambda c: list(
                c.completions.create(model="gpt-3.5-turbo-instruct", prompt="a", stream=True)
            ),
            id="completion-stream",
        ),
        pytest.param(
            lambda c: c.embeddings.create(model="text-embedding-3-small", input=["a b", "c"]),
            id="embeddings",
        ),
    ],
)
def test_what_was_served_is_billed(stack: Stack, client: openai.OpenAI, call: Call) -> None:
    assert stack.openai is not None
    assert stack.zion is not None
    served_before, billed_before = len(stack.openai.served()), len(stack.zion.ledger())
    assert call(client)
    deadline = time.monotonic() + 20
    while len(stack.zion.ledger()) == billed_before:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (served,) = stack.openai.served()[served_before:]
    (billed,) = stack.zion.ledger()[billed_before:]
    amounts = Amounts(billed.requests, billed.input_tokens, billed.output_tokens)
    assert amounts == Amounts(1, served.prompt_tokens, served.completion_tokens)
    assert billed.model in (served.model, served.model_requested)
