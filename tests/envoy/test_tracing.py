"""Our spans are below Envoy's, with the configuration that docs/observability.md gives for it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest
import yaml

from sentinel_extproc.demo.stack import Stack
from tests.otlp_receiver import Received, Receiver, http_receiver

PAGE = Path(__file__).parents[2] / "docs" / "observability.md"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with http_receiver() as running:
        yield running


def tracing_of_the_page() -> dict[str, Any]:
    for fence in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL):
        loaded = yaml.safe_load(fence)
        if "provider" in loaded.get("tracing", {}):
            return dict(loaded["tracing"])
    raise AssertionError("the page has no example for Envoy")


def traced(receiver: Receiver) -> Callable[[dict[str, Any]], dict[str, Any]]:
    port = urlsplit(receiver.url).port

    def amend(config: dict[str, Any]) -> dict[str, Any]:
        resources = config["static_resources"]
        manager = resources["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
        manager["tracing"] = tracing_of_the_page() | {"random_sampling": {"value": 100}}
        endpoint = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}
        resources["clusters"].append(
            {
                "name": "otlp",
                "type": "STATIC",
                "load_assignment": {
                    "cluster_name": "otlp",
                    "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}],
                },
            }
        )
        return config

    return amend


def ours(received: list[Received]) -> list[Received]:
    return [one for one in received if one.service == "sentinel-extproc"]


def exchanges(received: list[Received]) -> list[Received]:
    return [one for one in ours(received) if "sentinel.exchange.id" in one.attributes]


def gateway(stack: Stack, **headers: str) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{stack.url}/v1",
        api_key="demo-ada",
        max_retries=0,
        timeout=60,
        default_headers=headers,
        http_client=openai.DefaultHttpxClient(trust_env=False),
    )


@pytest.mark.timeout(180)
def test_our_span_is_below_envoys(run_stack: Callable[..., Stack], receiver: Receiver) -> None:
    stack = run_stack(settings={"SENTINEL_TRACING__ENDPOINT": receiver.url}, amend=traced(receiver))
    ask = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}
    begun = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    unwanted = "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
    for parent in (unwanted, begun):
        with gateway(stack, traceparent=parent) as client:
            client.chat.completions.create(**ask)  # type: ignore[call-overload]
    refused = httpx.post(
        f"{stack.url}/v1/chat/completions",
        json=ask,
        headers={"authorization": "Bearer nobody"},
        trust_env=False,
        timeout=60,
    )
    assert refused.status_code == 401

    def all_there(received: list[Received]) -> bool:
        parents = {one.parent_id for one in exchanges(received)}
        known = {one.span_id for one in received}
        settled = any(one.span.name == "settle" for one in ours(received))
        return len(parents) == 2 and parents <= known and settled

    received = receiver.wait_for(all_there)
    by_id = {one.span_id: one for one in received}
    admitted, denied = sorted(
        exchanges(received), key=lambda one: str(one.attributes["sentinel.decision"])
    )
    for span in (admitted, denied):
        above = by_id[span.parent_id]
        assert above.service == "gateway"
        assert above.trace_id == span.trace_id
        assert above.span.name.startswith("async")
    assert admitted.trace_id == begun.split("-")[1]
    assert admitted.attributes["gen_ai.usage.output_tokens"]
    assert admitted.span.name == "chat gpt-4o-mini"
    assert denied.attributes["error.type"] == "invalid_api_key"
    phases = [one.span.name for one in ours(received) if one.parent_id == admitted.span_id]
    assert sorted(phases) == ["authenticate", "count", "read", "record", "reserve", "settle"]
    assert not [one for one in received if one.trace_id == unwanted.split("-")[1]]
    assert "demo-ada" not in str([one.span for one in received])
