"""Limits on what runs at once, through real Envoys: they hold over all sidecars."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import cycle
from pathlib import Path

import httpx
import pytest

from sentinel_extproc.admin import client as admin
from sentinel_extproc.demo.openai_standin import OpenAIStandIn
from sentinel_extproc.demo.stack import Stack
from tests.envoy.replicas import Replica, two_replicas
from tests.faults.gateway import DONE, eventually

CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}
POLICY = """
rules:
  - match: {user: ext-bo}
    final: true
    limits:
      - {name: one, unit: requests, kind: concurrency, limit: 1}
  - limits:
      - {name: streams, unit: requests, kind: concurrency, limit: 3}
      - {name: requests, unit: requests, kind: ring, limit: 100000, per: 1m}
"""
SLOW_S, LONG = 0.2, 600
"""Streams of two minutes, if nobody leaves and the provider isn't told to hurry."""


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, Replica, Replica]]:
    policy: Path = tmp_path_factory.mktemp("policy") / "policy.yaml"
    policy.write_text(POLICY)
    settings = {"SENTINEL_LIMITS__POLICY_FILE": str(policy)}
    with two_replicas(settings, chunk_delay_s=SLOW_S) as running:
        yield running


@contextmanager
def stream(replica: Replica, token: str = "demo-ada") -> Iterator[httpx.Response]:
    """A stream, on a connection of its own: leaving it is leaving Envoy."""
    headers = {"authorization": f"Bearer {token}", "x-standin-tokens": str(LONG)}
    url, body = f"{replica.url}/v1/chat/completions", CHAT | {"stream": True}
    with (
        httpx.Client(trust_env=False, timeout=60) as client,
        client.stream("POST", url, json=body, headers=headers) as answer,
    ):
        yield answer


def chat(replica: Replica, token: str = "demo-ada", tokens: int = 2) -> httpx.Response:
    headers = {"authorization": f"Bearer {token}", "x-standin-tokens": str(tokens)}
    url = f"{replica.url}/v1/chat/completions"
    return httpx.post(url, json=CHAT, headers=headers, trust_env=False, timeout=60)


def provider(stack: Stack) -> OpenAIStandIn:
    assert stack.openai is not None
    return stack.openai


def left(replica: Replica, user: str = "ext-ada") -> int:
    """Places, as `limits show` has it."""
    told = admin.call("POST", "/v1/limits", {"user": user}, address=replica.admin)
    (at_once,) = (limit for limit in told["limits"] if limit["at_once"])
    return int(at_once["remaining"])


def test_three_streams_run_at_once_over_two_sidecars_and_no_fourth(
    both: tuple[Stack, Replica, Replica],
) -> None:
    stack, here, there = both
    before = len(provider(stack).requests())
    with ExitStack() as running, ExitStack() as first:
        answers = [first.enter_context(stream(here))]
        answers += [running.enter_context(stream(replica)) for replica in (there, here)]
        assert [answer.status_code for answer in answers] == [200] * 3, answers[-1].read()
        places = [answer.headers["x-ratelimit-remaining-concurrent"] for answer in answers]
        assert places == ["2", "1", "0"]
        assert "x-ratelimit-reset-concurrent" not in answers[0].headers
        assert int(answers[0].headers["x-ratelimit-remaining-requests"]) > 3, "that is a pace"
        for replica in (here, there):
            fourth = chat(replica)
            assert fourth.status_code == 429
            assert fourth.headers["x-sentinel-error"] == "too_many_at_once"
            assert fourth.json()["sentinel"]["limit_name"] == "streams"
            assert 1 <= int(fourth.headers["retry-after"]) <= 60
            assert left(replica) == 0
        assert len(provider(stack).requests()) == before + 3, "nothing of the fourth went out"

        # Its client leaves one of them, in the middle of the answer.
        first.close()
        eventually(lambda: left(there) == 1)
        again = running.enter_context(stream(there))
        assert again.status_code == 200
        assert chat(here).status_code == 429

        # They end by themselves: who has seen that may come again.
        provider(stack).pace(0.0)
        assert all(DONE in answer.read() for answer in [*answers[1:], again])
        provider(stack).pace(SLOW_S)
        eventually(lambda: left(here) == 3)
    assert chat(here).status_code == chat(there).status_code == 200


def test_who_asks_one_after_the_other_is_never_in_the_way_of_oneself(
    both: tuple[Stack, Replica, Replica],
) -> None:
    stack, here, there = both
    provider(stack).pace(0.0)
    with httpx.Client(trust_env=False, timeout=60) as client:
        for number, replica in zip(range(200), cycle((here, here, there)), strict=False):
            answer = client.post(
                f"{replica.url}/v1/chat/completions",
                json=CHAT | {"stream": number % 2 == 0},
                headers={"authorization": "Bearer demo-bo", "x-standin-tokens": "2"},
            )
            assert answer.status_code == 200, (number, answer.text)
