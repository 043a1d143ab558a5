"""Kept configurations put in front of a running stack, and what every governed gateway must do."""

from __future__ import annotations

import json
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import openai
import yaml

from sentinel_extproc.demo.envoy import RunningEnvoy, start_envoy
from sentinel_extproc.demo.stack import Stack

EXAMPLES = Path(__file__).resolve().parents[2] / "envoy"


ADA = "demo-ada"


@cache
def kept(name: str) -> Any:
    return list(yaml.safe_load_all((EXAMPLES / name).read_text("utf-8")))


def endpoints(config: Mapping[str, Any], cluster: str) -> dict[str, Any]:
    (found,) = (c for c in config["static_resources"]["clusters"] if c["name"] == cluster)
    assignment: dict[str, Any] = found["load_assignment"]
    return assignment


def lead_to(config: dict[str, Any], cluster: str, address: str) -> None:
    """Put another address into a cluster that stays what it is in every other way."""
    if address.startswith("unix:"):
        there: dict[str, Any] = {"pipe": {"path": address.removeprefix("unix:")}}
    else:
        host, _, port = address.rpartition(":")
        there = {"socket_address": {"address": host, "port_value": int(port)}}
    endpoint = {"endpoint": {"address": there}}
    endpoints(config, cluster)["endpoints"] = [{"lb_endpoints": [endpoint]}]


@contextmanager
def serving(config: Mapping[str, Any]) -> Iterator[RunningEnvoy]:
    with (
        tempfile.TemporaryDirectory(prefix="sx-ex-") as folder,
        start_envoy(config, work_dir=Path(folder)) as envoy,
    ):
        yield envoy


def url_of(envoy: RunningEnvoy) -> str:
    """Of its one listener, whatever that is called."""
    (listener,) = json.loads(envoy.admin("/listeners?format=json"))["listener_statuses"]
    return f"http://127.0.0.1:{listener['local_address']['socket_address']['port_value']}"


def ask(url: str) -> str:
    client = openai.OpenAI(
        api_key=ADA,
        base_url=f"{url}/v1",
        max_retries=0,
        http_client=openai.DefaultHttpxClient(trust_env=False),
    )
    with client:
        answer = client.chat.completions.create(
            model="gpt-4o-mini", messages=[{"role": "user", "content": "Hello"}]
        )
        return answer.choices[0].message.content or ""


def eventually(read: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 20
    while not (value := read()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return value


def assert_governed(envoy: RunningEnvoy, stack: Stack) -> None:
    """A user is served with the provider's key, logged by name; a stranger never gets through."""
    assert stack.openai is not None
    before = len(stack.openai.served())
    assert ask(url_of(envoy))
    stranger = httpx.post(
        f"{url_of(envoy)}/v1/chat/completions",
        json={"model": "gpt-4o-mini", "messages": []},
        headers={"authorization": "Bearer nobody"},
        trust_env=False,
    )
    assert stranger.status_code == 401
    assert len(stack.openai.served()) == before + 1
    lines = eventually(lambda: [x for x in envoy.access_log() if x["status"] in (200, 401)][1:])
    (line,) = (x for x in envoy.access_log() if x["status"] == 200)
    assert line["sentinel"]["user"] == "ext-ada"
    assert line["sentinel"]["model"] == "gpt-4o-mini"
    assert line["sentinel"]["decision"] == "admitted"
    assert line["sentinel"]["output_tokens"] > 0
    assert lines


def listens(port: int) -> bool:
    """Whether somebody takes connections there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
